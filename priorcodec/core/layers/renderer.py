"""Networks of the semantic layers: texture features out of the encoder's, and a renderer that makes a preview of painted regions.

The renderer stands where g_s stands when a file has no latent. Constant input gives a convolutional network nothing to make
texture of but its own grid, so noise of the file's seed comes in (as in StyleGAN, Karras et al., CVPR 2019).
    values painted into regions (16, h, w) --blocks @16--> @8, with noise --blocks--> @4 --> x (3, 16h, 16w)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from priorcodec.core.container import STRIDE
from priorcodec.core.layers.texture import CHANNELS, PLANE
from priorcodec.core.transforms import ResidualBlock

NOISE = 4  # channels at stride 8
WIDTHS = (64, 40, 24)  # at strides 16, 8, 4
HALO = 10 * STRIDE  # pixels the renderer looks at most beyond a part: 7 convolutions at stride 16, 4 at 8, 3 at 4


class TextureEncoder(nn.Sequential):
    """y (b, m, h, w) -> learned texture features (b, 11, h, w), of which a region takes the mean."""

    def __init__(self, m: int):
        super().__init__(nn.Conv2d(m, 48, 1), nn.LeakyReLU(0.1), nn.Conv2d(48, CHANNELS - PLANE, 1))


class Renderer(nn.Module):
    """Painted values (b, 16, h, w), then noise (b, 4 * NOISE, h, w) -> x (b, 3, 16h, 16w), nominally in [-1, 1] (not clamped)."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.at16 = nn.Sequential(nn.Conv2d(CHANNELS, a, 3, padding=1), *(ResidualBlock(a) for _ in range(3)))
        self.up8 = nn.Sequential(nn.Conv2d(a, 4 * b, 1), nn.PixelShuffle(2))
        self.noise = nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(NOISE, b, 1))
        self.at8 = nn.Sequential(*(ResidualBlock(b) for _ in range(2)))
        self.up4 = nn.Sequential(nn.Conv2d(b, 4 * c, 1), nn.PixelShuffle(2))
        self.at4 = ResidualBlock(c)
        self.tail = nn.Sequential(nn.LeakyReLU(0.1), nn.Conv2d(c, 48, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, painted: Tensor) -> Tensor:
        a = self.up8(self.at16(painted[:, :CHANNELS]))
        a = self.up4(self.at8(a + self.noise(painted[:, CHANNELS:])))
        return self.tail(self.at4(a))


def noise(seed: int, rows: int, columns: int) -> Tensor:
    """Standard normal values (1, 4 * NOISE, rows, columns), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 4 * NOISE, rows, columns, dtype=torch.float32, generator=generator)
