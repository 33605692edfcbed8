"""What the semantic layers do in floating point: describe an image by regions, and render regions to a preview.

y, pixels --segmentation--> map; --TextureEncoder, mean of each region--> values        encoder
map, values --painted--> --Renderer, noise of the file's seed--> pixels                 decoder, in tiles
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from priorcodec.core import shipped, tiling
from priorcodec.core.errors import WeightsError
from priorcodec.core.image import io as image_io
from priorcodec.core.io import safetensors
from priorcodec.core.layers import structure, texture
from priorcodec.core.layers.renderer import HALO, Renderer, TextureEncoder, noise
from priorcodec.core.layers.segmentation import segment
from priorcodec.core.layers.semantic import KIND, NETWORKS, SHIPPED, Regions
from priorcodec.core.layers.structure import CELL, Labels
from priorcodec.core.statistics import TO_YCC

BORDER = 1.1  # price of a border of a cell's side, see `segment`
REGION = 20.0  # and of a region


class SemanticNetworks:
    """The networks of the semantic layers on one device.

    Args:
        m: Channels of y.
        device: Where they run.

    Raises:
        WeightsError: Missing, damaged, or of another encoder's shape.
    """

    def __init__(self, *, m: int, device: torch.device | str = "cpu"):
        _, tensors = safetensors.read(SHIPPED, KIND, WeightsError, "reinstall priorcodec")
        shipped.verify(SHIPPED, SHIPPED.read_bytes())
        tensors = {name: value.float() for name, value in tensors.items() if name.startswith(NETWORKS)}
        with torch.device("meta"):  # no random numbers of the process are used
            networks = {"encoder": TextureEncoder(m), "renderer": Renderer()}
        try:
            for prefix, network in networks.items():
                state = {k: _scaled(tensors, f"{prefix}.{k}") for k in network.state_dict()}
                network.load_state_dict(state, assign=True)
                network.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)  # pyright: ignore
            self.segmenter = tensors["segment.weight"].to(device), tensors["segment.bias"].to(device)
        except (KeyError, RuntimeError) as error:
            raise WeightsError(
                f"{SHIPPED} does not fit this encoder ({str(error)[:100]}): reinstall priorcodec"
            ) from error
        self.encoder, self.renderer, self.device = networks["encoder"], networks["renderer"], torch.device(device)

    @torch.inference_mode()
    def describe(
        self, pixels: NDArray[np.uint8], y: Tensor, *, labels: Labels | None = None
    ) -> tuple[Labels, NDArray[np.float64]]:
        """An image and its features -> map of regions, and their values in units.

        Args:
            pixels: uint8 (height, width, 3).
            y: Its features (1, m, h, w), on the padded grid.
            labels: A map to use instead of a new one.
        """
        rows, columns = structure.grid(*pixels.shape[:2])
        colors = _colors(pixels)
        if labels is None:
            weight, bias = self.segmenter
            smooth = F.avg_pool2d(F.pad(y[..., :rows, :columns], (1, 1, 1, 1), mode="replicate"), 3, 1)
            semantic = torch.einsum("kc,chw->hwk", weight, smooth[0]) + bias
            scaled = (colors - (128, 0, 0)) / np.array(texture.UNIT[: texture.COLORS])
            features = np.concatenate([scaled, semantic.cpu().numpy()], -1).astype(np.float32)
            labels = segment(features, border=BORDER, region=REGION)
        learned = self.encoder(y[..., :rows, :columns])[0].permute(1, 2, 0).cpu().numpy()
        return labels, texture.measure(labels, colors, learned)

    @torch.inference_mode()
    def render(self, regions: Regions, height: int, width: int, seed: int, *, tile: int = 0) -> Tensor:
        """Regions with values -> uint8 (1, 3, H, W), the image with its padding to multiples of 64.

        Args:
            regions: With values.
            height, width: True size in pixels.
            seed: Of the noise.
            tile: Side of the tiles that are worked on, 0 for the whole image.
        """
        assert regions.values is not None
        plan = tiling.plan(height, width, tile, 0)
        planes = torch.from_numpy(texture.painted(regions.labels, regions.values))[None]
        rows, columns = plan.height // CELL, plan.width // CELL
        missing = (0, columns - planes.shape[3], 0, rows - planes.shape[2])
        planes = torch.cat([F.pad(planes, missing, mode="replicate"), noise(seed, rows, columns)], 1).to(self.device)
        out = torch.empty((1, 3, plan.height, plan.width), dtype=torch.uint8)
        for row, column in plan:
            x = tiling.part(self.renderer, planes, (row, column), HALO, CELL)
            out[..., row.own(1), column.own(1)] = torch.from_numpy(image_io.to_pixels(x)).permute(2, 0, 1)
        return out


def _colors(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """uint8 (height, width, 3) -> mean Y, Cb, Cr of every cell (rows, columns, 3), Cb and Cr less 128."""
    edges = [np.arange(0, side, CELL) for side in pixels.shape[:2]]
    total = np.add.reduceat(np.add.reduceat(pixels, edges[0], 0, dtype=np.int64), edges[1], 1)
    down, across = (np.diff([*edge, side]) for edge, side in zip(edges, pixels.shape[:2], strict=True))
    return total / np.outer(down, across)[..., None] @ np.array(TO_YCC).T


def _scaled(tensors: dict[str, Tensor], name: str) -> Tensor:
    scale = tensors.get(f"{name}.scale")
    return tensors[name] if scale is None else tensors[name] * scale[:, None, None, None]
