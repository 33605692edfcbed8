"""The float networks of encoder 2: g_a, h_a, gains, and two auxiliary decoders, g_s (least error) and g_p (perceptual).

The blocks of `transforms`; the decoders are modulated by the quality (a scale and an offset per channel and level, as the
gain vectors of Cui et al., CVPR 2021, inside the network), the analysis is not: one pass of g_a serves every quality.
    x --g_a--> y --gain(quality)--> y_q --entropy model--> symbols + mean --inverse gain--> y_hat --g_s | g_p (quality)--> x_hat
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from priorcodec.core.entropy.entropy_model import interpolate, relaxed_bits
from priorcodec.core.entropy.integer import round_ste
from priorcodec.core.transforms import HyperAnalysis, blocks
from recipes.encoder2.entropy_model import CERTAIN, EntropyModel2


@dataclass(frozen=True, kw_only=True)
class Encoder2Config:
    """Widths of the encoder: at strides 8 and 16, coded channels m, hyper-latent channels m_h, entropy model width n."""

    n8: int = 128
    n16: int = 192
    m: int = 112
    m_h: int = 64
    n: int = 128
    depth8: int = 3
    depth16: int = 4
    levels: int = 12
    groups: tuple[int, ...] = (8, 24, 32, 48)


class Analysis2(nn.Sequential):
    """g_a: x (b, 3, H, W) in [-1, 1], sides multiples of 16 -> y (b, m, H/16, W/16)."""

    def __init__(self, c: Encoder2Config):
        super().__init__(
            nn.PixelUnshuffle(8),
            nn.Conv2d(3 * 64, c.n8, 3, padding=1),
            blocks(c.n8, c.depth8),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * c.n8, c.n16, 1),
            blocks(c.n16, c.depth16),
            nn.Conv2d(c.n16, c.m, 3, padding=1),
        )


class Modulation(nn.Module):
    """Per level and channel a scale and an offset, interpolated between levels; the identity at first."""

    def __init__(self, levels: int, channels: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(levels, 2 * channels))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        scale, offset = interpolate(self.table, quality)[..., None, None].to(x.dtype).chunk(2, 1)
        return x * (1 + scale) + offset


class Synthesis2(nn.Module):
    """An auxiliary decoder: y_hat (b, m, h, w) and quality (b,) -> x (b, 3, 16h, 16w), nominally in [-1, 1] (not clamped)."""

    def __init__(self, c: Encoder2Config):
        super().__init__()
        self.head = nn.Conv2d(c.m, c.n16, 3, padding=1)
        self.modulation16 = Modulation(c.levels, c.n16)
        self.blocks16 = blocks(c.n16, c.depth16)
        self.up = nn.Sequential(nn.Conv2d(c.n16, 4 * c.n8, 1), nn.PixelShuffle(2))
        self.modulation8 = Modulation(c.levels, c.n8)
        self.blocks8 = blocks(c.n8, c.depth8)
        self.tail = nn.Sequential(nn.Conv2d(c.n8, 3 * 64, 3, padding=1), nn.PixelShuffle(8))

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        a = self.blocks16(self.modulation16(self.head(y_hat), quality))
        return self.tail(self.blocks8(self.modulation8(self.up(a), quality)))


@dataclass(frozen=True, kw_only=True)
class Coded2:
    """One training pass: y_hat (b, m, h, w), bits of latent and hyper-latent (b,), symbols, index (b, m, h, w)."""

    y_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor
    symbols: Tensor
    index: Tensor
    z_symbols: Tensor
    z_index: Tensor


class Transforms2(nn.Module):
    """g_a, h_a, g_s, g_p and the gain vectors: the part that may be evaluated in floating point."""

    def __init__(self, config: Encoder2Config):
        super().__init__()
        self.config = c = config
        self.g_a, self.h_a = Analysis2(c), HyperAnalysis(c.m, c.n, c.m_h)
        self.g_s, self.g_p = Synthesis2(c), Synthesis2(c)
        start = torch.linspace(-1.8, 1.8, c.levels)[:, None]
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


class ImageEncoder2(Transforms2):
    """The transforms together with the trainable entropy model: what stage 1 trains."""

    def __init__(self, config: Encoder2Config):
        super().__init__(config)
        self.entropy = EntropyModel2(config.m, config.m_h, config.n, config.levels, config.groups)

    def code_latent(
        self,
        y: Tensor,
        quality: Tensor,
        *,
        autocast: bool = False,
        uniform: Callable[[Tensor], Tensor] = torch.rand_like,
        bits: Callable[..., Tensor] = relaxed_bits,
        certain: int = CERTAIN,
    ) -> Coded2:
        """y (b, m, h, w), sides multiples of 4 -> y_hat as a decoder reads it and its bits.

        bits: (offset, index, uniform) -> bits of each value; `relaxed_bits` to train.
        """
        cast = torch.autocast(y.device.type, dtype=torch.bfloat16, enabled=autocast)
        with cast:
            y_q, z = self.scaled(y, quality)
        z, y_q = z.float(), y_q.float()
        z_mean, z_index = self.entropy.hyper_parameters(quality)
        z_index = z_index.expand_as(z)
        z_symbols = round_ste(z - z_mean)
        z_bits = bits(z - z_mean, z_index, uniform)
        with cast:
            phi = self.entropy.features(z_symbols + z_mean, quality)
            symbols, mean, index = self.entropy(y_q, phi, certain=certain)
        y_bits = bits(y_q - mean, index, uniform)
        return Coded2(
            y_hat=self.dequantize(symbols + mean, quality),
            y_bits=y_bits.sum((1, 2, 3)),
            z_bits=z_bits.sum((1, 2, 3)),
            symbols=symbols,
            index=index,
            z_symbols=z_symbols,
            z_index=z_index,
        )

    def analyze(self, x: Tensor, *, autocast: bool = False) -> Tensor:
        """x (b, 3, H, W) in [-1, 1], sides multiples of 64 -> y."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            return self.g_a(x).float()
