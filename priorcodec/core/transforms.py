"""The fixed encoder's float networks: analysis g_a, synthesis g_s (the preview), hyper-analysis h_a, and the gain vectors.

Lean residual networks at strides 8 and 16 after a pixel-unshuffle (the ELIC/AEIC class: He et al., CVPR 2022), dense 3x3
convolutions because two CPU cores run those fastest. One model serves all rates through gain vectors (Cui et al., "Asymmetric
Gained Deep Image Compression", CVPR 2021): a quality level is a pair of vectors (quantize, dequantize); qualities between two
levels interpolate them geometrically.
    x (3, H, W) --unshuffle 8--> 3x3 --blocks @8--> unshuffle 2 --> 1x1 --blocks @16--> 3x3 --> y (M, H/16, W/16)
    x --g_a--> y --gain(quality)--> y_q --round(y_q - mean) + mean--> y_hat_q --inverse gain--> y_hat --g_s--> preview
               y_q --h_a, hyper gain--> z_h --round--> entropy model --> mean, scale index
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from priorcodec.core.entropy.entropy_model import EntropyModel, interpolate, relaxed_bits
from priorcodec.core.entropy.integer import round_ste

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


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Widths of the encoder: at strides 8 and 16, coded channels m, hyper-latent channels m_h, prior width n."""

    n8: int = 128
    n16: int = 192
    m: int = 192
    m_h: int = 64
    n: int = 128
    depth: int = 3
    levels: int = 8


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One training pass: x_hat (b, 3, H, W), y_hat (b, m, H/16, W/16), bits of latent and hyper-latent (b,)."""

    x_hat: Tensor
    y_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


class Transforms(nn.Module):
    """g_a, h_a, g_s and the gain vectors: the part that may be evaluated in floating point.

    `quality` is a real number in [0, levels - 1], one per image.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = c = config
        self.halo = (2 * c.depth + 1) * (
            STRIDE + STRIDE // 2
        )  # pixels: so far do g_a and g_s look, that many 3x3 at each stride
        self.g_a = Analysis(c.n8, c.n16, c.m, c.depth)
        self.g_s = Synthesis(c.n8, c.n16, c.m, c.depth)
        self.h_a = HyperAnalysis(c.m, c.n, c.m_h)
        start = torch.linspace(-1.2, 1.2, c.levels, device="cpu")[:, None]  # on "meta" it would import torch's compiler
        self.log_gain = nn.Parameter(start.repeat(1, c.m))
        self.log_inverse = nn.Parameter(-start.repeat(1, c.m))
        self.log_hyper_gain = nn.Parameter(0.5 * start.repeat(1, c.m_h))

    def scaled(self, y: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """y and quality (b,) -> (y_q, hyper-latent before rounding), in units of one quantization step."""
        y_q = y * interpolate(self.log_gain, quality).exp()[..., None, None]
        z = self.h_a(y_q) * interpolate(self.log_hyper_gain, quality).exp()[..., None, None]
        return y_q, z

    def dequantize(self, y_hat_q: Tensor, quality: Tensor) -> Tensor:
        """Decoded values in quantization steps -> y_hat, the features every backbone's adapter reads."""
        return y_hat_q * interpolate(self.log_inverse, quality).exp()[..., None, None]


class ImageEncoder(Transforms):
    """The transforms together with the trainable entropy model: what stage 1 trains."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        self.entropy_model = EntropyModel(config.m, config.m_h, config.n, config.levels)

    def code(
        self,
        x: Tensor,
        quality: Tensor,
        *,
        autocast: bool = False,
        uniform: Callable[[Tensor], Tensor] = torch.rand_like,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, 3, H, W) in [-1, 1], sides multiples of 64 -> y_hat as a decoder reads it, latent and hyper-latent bits (b,).

        uniform: the noise of `relaxed_bits`.
        """
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            y_q, z = self.scaled(self.g_a(x).float(), quality)
        z, y_q = z.float(), y_q.float()
        z_mean, z_index = self.entropy_model.hyper_parameters(quality)
        symbols = round_ste(z - z_mean)
        z_bits = relaxed_bits(z - z_mean, z_index.expand_as(z), uniform)
        phi = self.entropy_model.features(symbols + z_mean, quality)
        mean, index = self.entropy_model(y_q, phi)
        symbols = round_ste(y_q - mean)
        y_bits = relaxed_bits(y_q - mean, index, uniform)
        y_hat = self.dequantize(symbols + mean, quality)
        return y_hat, y_bits.sum((1, 2, 3)), z_bits.sum((1, 2, 3))

    def forward(
        self,
        x: Tensor,
        quality: Tensor,
        *,
        autocast: bool = False,
        uniform: Callable[[Tensor], Tensor] = torch.rand_like,
    ) -> Forward:
        """`code`, then the auxiliary decoder: a differentiable model of coding and previewing x."""
        y_hat, y_bits, z_bits = self.code(x, quality, autocast=autocast, uniform=uniform)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            x_hat = self.g_s(y_hat)
        return Forward(x_hat=x_hat.float(), y_hat=y_hat, y_bits=y_bits, z_bits=z_bits)
