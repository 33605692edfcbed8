"""Pixel-domain transforms of the fixed encoder: analysis g_a, synthesis g_s (the auxiliary decoder), hyper-analysis h_a.

Lean residual networks at strides 8 and 16 after a pixel-unshuffle (the ELIC/AEIC class: He et al., CVPR 2022), dense 3x3
convolutions because two CPU cores run those fastest.
    x (3, H, W) --unshuffle 8--> 3x3 --blocks @8--> unshuffle 2 --> 1x1 --blocks @16--> 3x3 --> y (M, H/16, W/16)
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

STRIDE = 16
HYPER_STRIDE = 64


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around one activation, added to the input; the size stays."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.LeakyReLU(0.1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.act(self.conv1(x)))
        return y.add_(x) if y.dtype == x.dtype else y + x


def blocks(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(depth)))


class Analysis(nn.Sequential):
    """g_a: x (b, 3, H, W) in [-1, 1], sides multiples of 16 -> y (b, m, H/16, W/16)."""

    def __init__(self, n8: int, n16: int, m: int, depth: int):
        super().__init__(
            nn.PixelUnshuffle(8),
            nn.Conv2d(3 * 64, n8, 3, padding=1),
            blocks(n8, depth),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * n8, n16, 1),
            blocks(n16, depth),
            nn.Conv2d(n16, m, 3, padding=1),
        )


class Synthesis(nn.Sequential):
    """g_s, the auxiliary decoder: y_hat (b, m, h, w) -> x (b, 3, 16h, 16w), nominally in [-1, 1] (not clamped)."""

    def __init__(self, n8: int, n16: int, m: int, depth: int):
        super().__init__(
            nn.Conv2d(m, n16, 3, padding=1),
            blocks(n16, depth),
            nn.Conv2d(n16, 4 * n8, 1),
            nn.PixelShuffle(2),
            blocks(n8, depth),
            nn.Conv2d(n8, 3 * 64, 3, padding=1),
            nn.PixelShuffle(8),
        )


class HyperAnalysis(nn.Sequential):
    """h_a: scaled y (b, m, h, w), sides multiples of 4 -> hyper-latent (b, m_h, h/4, w/4), before rounding."""

    def __init__(self, m: int, n: int, m_h: int):
        super().__init__(
            nn.Conv2d(m, n, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(n, n, 4, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(n, n, 4, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(n, m_h, 1),
        )
