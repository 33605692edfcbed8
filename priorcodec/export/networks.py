"""What is exported of a session: modules with the arguments and results of one graph each.

    analysis    x --g_a--> y                       preview, perceptual    y_hat, quality --g_s | g_p--> x
    hyper       y, quality --gain, h_a--> y_q, z   decoder                y_hat, quality, preview, noise --adapter, backbone--> x
    renderer    painted regions with noise --> x   the preview of a file without a latent
Height and width are free. The decoder's can be fixed to a square, which small runtimes want; images are then blended from
overlapping squares (`core.tiling.blend`), and smaller ones padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.refiner import STRIDE as REFINER_STRIDE
from priorcodec.core.container import HYPER_STRIDE as UNIT
from priorcodec.core.container import STRIDE
from priorcodec.core.layers import renderer
from priorcodec.core.layers.renderer import Renderer
from priorcodec.core.layers.texture import CHANNELS
from priorcodec.core.transforms import Transforms
from priorcodec.export.graph import Port

READ = "perceptual"  # the preview that a decoder reads
CELLS = (8, 12)  # height and width of the examples, in the units of their ports


@dataclass(frozen=True, kw_only=True)
class Network:
    """One graph to be.

    Attributes:
        name: Of the file, without its suffix.
        module: What computes it.
        inputs: Arguments.
        outputs: Results.
        halo: Pixels that an output looks beyond its own place; None where a whole image is wanted or the size is fixed.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    halo: int | None = None

    def examples(self, cells: tuple[int, int] = CELLS) -> dict[str, Tensor]:
        """Random inputs of a free height and width."""
        generator, sides = torch.Generator().manual_seed(0), dict(zip("hw", cells, strict=True))

        def example(port: Port) -> Tensor:
            if port.name == "quality":
                return torch.tensor([1.5])
            shape = [side if isinstance(side, int) else int(side[:-1] or 1) * sides[side[-1]] for side in port.shape]
            return torch.rand(shape, generator=generator) * 2 - 1

        return {port.name: example(port) for port in self.inputs}


class _Hyper(nn.Module):
    def __init__(self, transforms: Transforms):
        super().__init__()
        self.transforms = transforms

    def forward(self, y: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        return self.transforms.scaled(y, quality)


class _Decoder(nn.Module):
    """One step of the denoiser, without renormalization."""

    def __init__(self, adapter: Adapter):
        super().__init__()
        self.adapter, self.denoiser = adapter, adapter.attached.module  # as a submodule: its weights are named

    def forward(self, y_hat: Tensor, quality: Tensor, preview: Tensor, noise: Tensor | None = None) -> Tensor:
        z = self.adapter(y_hat, quality, preview).z
        return self.adapter.to_pixels(z, quality, preview, noise)


def of_encoder(transforms: Transforms) -> Iterator[Network]:
    """The fixed encoder's networks, for files of any backbone."""
    m, m_h = transforms.config.m, transforms.config.m_h
    x, y = Port(name="x", shape=(1, 3, "16h", "16w")), (1, m, "h", "w")
    quality, y_hat = Port(name="quality", shape=(1,)), Port(name="y_hat", shape=y)
    yield Network(
        name="analysis", module=transforms.g_a, inputs=(x,), outputs=(Port(name="y", shape=y),), halo=transforms.halo
    )
    whole = (1, m, "4h", "4w")  # z is at a quarter of the stride
    yield Network(
        name="hyper",
        module=_Hyper(transforms),
        inputs=(Port(name="y", shape=whole), quality),
        outputs=(Port(name="y_q", shape=whole), Port(name="z", shape=(1, m_h, "h", "w"))),
    )
    for name, module in (("preview", transforms.g_s), ("perceptual", transforms.g_p)):
        yield Network(name=name, module=module, inputs=(y_hat, quality), outputs=(x,), halo=transforms.halo)


def of_semantic(network: Renderer) -> Network:
    """What makes an image of the painted values of regions and the noise, in this order of channels."""
    painted = Port(name="painted", shape=(1, CHANNELS + 4 * renderer.NOISE, "h", "w"))
    x = Port(name="x", shape=(1, 3, "16h", "16w"))
    return Network(name="renderer", module=network, inputs=(painted,), outputs=(x,), halo=renderer.HALO)


def of_decoder(adapter: Adapter, m: int, tile: int | None = None) -> Network:
    """A backbone with its adapter attached.

    Args:
        adapter: Attached, in float32 on the CPU.
        m: Channels of y_hat.
        tile: Side of a fixed square in pixels; None for free sizes, multiples of 64 pixels.
    """

    def sides(stride: int) -> tuple[int | str, int | str]:
        return (f"{UNIT // stride}h", f"{UNIT // stride}w") if tile is None else (tile // stride, tile // stride)

    inputs = [
        Port(name="y_hat", shape=(1, m, *sides(STRIDE))),
        Port(name="quality", shape=(1,)),
        Port(name="preview", shape=(1, 3, *sides(1))),
    ]
    if channels := adapter.noise_shape(UNIT, UNIT)[0]:
        inputs.append(Port(name="noise", shape=(1, channels, *sides(REFINER_STRIDE))))
    outputs = (Port(name="x", shape=(1, 3, *sides(1))),)
    return Network(name="decoder", module=_Decoder(adapter), inputs=tuple(inputs), outputs=outputs)
