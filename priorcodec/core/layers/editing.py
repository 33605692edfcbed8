"""Edits of one region of a file: another texture or another color, with or without a latent.

Without a latent, only the region's values change. With one, its preview is edited too and the latent is coded again:
    y_hat --g_s--> preview --color moved, or the rendered new values in the region--> edited --g_a--> y'
    y' in the region's cells, y_hat in the encoder's units elsewhere --entropy coding--> new latent
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from priorcodec.core.container import MAX_PIXELS
from priorcodec.core.errors import ConfigError
from priorcodec.core.image import io as image_io
from priorcodec.core.layers import texture
from priorcodec.core.layers.semantic import Regions
from priorcodec.core.layers.structure import CELL
from priorcodec.core.statistics import TO_YCC

if TYPE_CHECKING:
    from priorcodec.core.codec import Codec
    from priorcodec.core.types import Decoded, Encoded


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What becomes of one region.

    Attributes:
        region: Its number.
        values: New values in units (CHANNELS,), or None to recolor.
        color: New mean color, RGB; only without `values`.
    """

    region: int
    values: NDArray[np.float64] | None = None
    color: tuple[int, int, int] | None = None


def values_of(codec: Codec, data: bytes, region: int | None, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.float64]:
    """The values (CHANNELS,) of one region of a file, None for its largest, in units. Raises StreamError, ConfigError."""
    decoded = codec.decode(data, max_pixels=max_pixels)
    regions, values = _described(codec, decoded)
    if region is None:
        region = int(texture.areas(regions.labels).argmax())
    _check(region, regions)
    return values[region]


def edit(codec: Codec, data: bytes, change: Edit, *, keep_latent: bool = True, max_pixels: int = MAX_PIXELS) -> Encoded:
    """A file with one region changed. Statistics and residual are dropped: they describe the image as it was.

    Other regions keep their values up to half a step, since the coded means depend on all regions.

    Args:
        codec: Of the file's encoder.
        data: The file.
        change: The edit.
        keep_latent: Code a latent of the edited image; False for a file of the semantic layers alone.
        max_pixels: Files of larger images are refused.

    Raises:
        StreamError: The file cannot be read.
        ConfigError: There is no such region.
    """
    decoded = codec.decode(data, max_pixels=max_pixels)
    content = decoded.container
    regions, values = _described(codec, decoded)
    _check(change.region, regions)
    old, values = values[change.region].copy(), values.copy()
    if change.values is not None:
        values[change.region] = change.values
    if change.color is not None:
        values[change.region, : texture.COLORS] = _values_of_color(change.color)
    step = texture.STEP if regions.step is None else regions.step
    size = content.height, content.width
    latent = keep_latent and content.string is not None
    layers = codec.semantic_tables.write(regions.labels, values, step)
    if not latent:
        return codec.without_latent(size, layers)
    edited = _edited_preview(codec, decoded, regions, values, change, values[change.region] - old)
    y = codec.analyze(edited)
    cells = torch.from_numpy(regions.labels == change.region).to(y.device)
    inside = torch.zeros(y.shape[-2:], dtype=torch.bool, device=y.device)
    inside[: cells.shape[0], : cells.shape[1]] = cells
    kept = codec.features_to_write(decoded)
    return codec.write(torch.where(inside, y, kept), size, layers if regions.written else (), content.quality)


def _described(codec: Codec, decoded: Decoded) -> tuple[Regions, NDArray[np.float64]]:
    """A file's regions and their values in units, measured on its preview where it has no texture layer."""
    regions = codec.regions(decoded.container)
    if regions.values is not None:
        return regions, regions.values / texture.ONE
    return regions, codec.semantic_networks.describe(codec.preview(decoded), decoded.y_hat, labels=regions.labels)[1]


def _edited_preview(
    codec: Codec,
    decoded: Decoded,
    regions: Regions,
    values: NDArray[np.float64],
    change: Edit,
    difference: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """The preview with the region recolored, or rendered from its new values: uint8 (h, w, 3)."""
    height, width = decoded.height, decoded.width
    pixels = codec.preview(decoded).astype(np.float64)
    if change.values is None:
        units = np.array(texture.UNIT[: texture.COLORS])
        new = pixels + np.linalg.inv(np.array(TO_YCC)) @ (difference[: texture.COLORS] * units)
    else:
        painted = replace(regions, values=np.round(values * texture.ONE).astype(np.int32))
        planes = codec.semantic_networks.render(painted, height, width, decoded.seed, tile=codec.tile)
        new = image_io.crop(planes, height, width)[0].permute(1, 2, 0).cpu().numpy()
    inside = (regions.labels == change.region).repeat(CELL, 0).repeat(CELL, 1)[:height, :width, None]
    return np.clip(np.round(np.where(inside, new, pixels)), 0, 255).astype(np.uint8)


def _values_of_color(color: tuple[int, int, int]) -> NDArray[np.float64]:
    return (np.array(TO_YCC) @ np.array(color) - (128, 0, 0)) / np.array(texture.UNIT[: texture.COLORS])


def _check(region: int, regions: Regions) -> None:
    if not 0 <= region < regions.count:
        raise ConfigError(f"region is {region}, wanted 0 to {regions.count - 1}: `priorcodec regions` lists them")
