"""The fixed encoder's float networks: analysis g_a, hyper-analysis h_a, gains, and two auxiliary decoders, g_s and g_p.

Lean residual networks at strides 8 and 16 after a pixel-unshuffle (the ELIC/AEIC class: He et al., CVPR 2022), dense 3x3
convolutions because two CPU cores run those fastest. One model serves all rates through gain vectors (Cui et al., "Asymmetric
Gained Deep Image Compression", CVPR 2021): a quality level is a pair of vectors (quantize, dequantize); qualities between two
levels interpolate them geometrically. The decoders are modulated by the quality as well, the analysis is not: one pass of g_a
serves every quality. g_s is trained for least error, g_p for a perceptual distance.
    x (3, H, W) --unshuffle 8--> 3x3 --blocks @8--> unshuffle 2 --> 1x1 --blocks @16--> 3x3 --> y (m, H/16, W/16)
    x --g_a--> y --gain(quality)--> y_q --entropy model--> symbols + mean --inverse gain--> y_hat --g_s | g_p (quality)--> x_hat
               y_q --h_a, hyper gain--> z_h --round--> entropy model
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from priorcodec.core import precision
from priorcodec.core.container import STRIDE
from priorcodec.core.entropy.entropy_model import EntropyModel, interpolate, relaxed_bits
from priorcodec.core.entropy.integer import round_ste
from priorcodec.core.entropy.tables import CERTAIN


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


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of an encoder.

    Attributes:
        n8: Channels at stride 8.
        n16: Channels at stride 16.
        m: Coded channels.
        m_h: Channels of the hyper-latent.
        n: Width of the entropy model.
        depth8: Residual blocks at stride 8.
        depth16: Residual blocks at stride 16.
        levels: Quality levels.
        groups: Coded channels of each group, in the order of decoding; they add up to m.
        certain: Table indices below it mean a zero that is not coded.
    """

    n8: int = 128
    n16: int = 192
    m: int = 112
    m_h: int = 64
    n: int = 128
    depth8: int = 3
    depth16: int = 4
    levels: int = 12
    groups: tuple[int, ...] = (8, 24, 32, 48)
    certain: int = CERTAIN


class Analysis(nn.Sequential):
    """g_a: x (b, 3, H, W) in [-1, 1], sides multiples of 16 -> y (b, m, H/16, W/16)."""

    def __init__(self, c: EncoderConfig):
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
    """A scale and an offset per channel and level, interpolated between levels; the identity at first."""

    def __init__(self, levels: int, channels: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(levels, 2 * channels))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        scale, offset = interpolate(self.table, quality)[..., None, None].to(x.dtype).chunk(2, 1)
        return x * (1 + scale) + offset


class Synthesis(nn.Module):
    """An auxiliary decoder: y_hat (b, m, h, w) and quality (b,) -> x (b, 3, 16h, 16w), nominally in [-1, 1] (not clamped)."""

    def __init__(self, c: EncoderConfig):
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
class Coded:
    """One training pass of coding: y_hat (b, m, H/16, W/16) as a decoder reads it, bits of latent and hyper-latent (b,)."""

    y_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


class Transforms(nn.Module):
    """g_a, h_a, g_s, g_p and the gain vectors: the part that may be evaluated in floating point.

    `quality` is a real number in [0, levels - 1], one per image.

    Attributes:
        halo: Pixels that g_a, g_s and g_p look at most beyond a part whose borders are multiples of 16.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = c = config
        # 3x3 convolutions: 2 * depth8 + 1 at stride 8, which are depth8 + 1 whole cells at stride 16, and 2 * depth16 + 1 there
        self.halo = STRIDE * (c.depth8 + 1 + 2 * c.depth16 + 1)
        self.g_a, self.h_a = Analysis(c), HyperAnalysis(c.m, c.n, c.m_h)
        self.g_s, self.g_p = Synthesis(c), Synthesis(c)
        start = torch.linspace(-1.8, 1.8, c.levels, device="cpu")[:, None]  # on "meta" it would import torch's compiler
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

    def unscaled(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """Features of a decoder -> y of an encoder, of the same decoded values: the two gains are no inverses of each other."""
        return y_hat * (-interpolate(self.log_gain + self.log_inverse, quality)).exp()[..., None, None]


class ImageEncoder(Transforms):
    """The transforms together with the trainable entropy model: what stage 1 trains."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        c = config
        self.entropy = EntropyModel(c.m, c.m_h, c.n, c.levels, c.groups, certain=c.certain)

    def code(
        self,
        x: Tensor,
        quality: Tensor,
        *,
        autocast: bool = False,
        uniform: Callable[[Tensor], Tensor] = torch.rand_like,
    ) -> Coded:
        """A differentiable model of coding x (b, 3, H, W) in [-1, 1], sides multiples of 64.

        Args:
            x: Images.
            quality: In levels (b,).
            autocast: Whether the transforms run in bfloat16 where that is faster; the integer networks are simulated in float32.
            uniform: The noise of `relaxed_bits`.
        """
        with precision.autocast(x.device, enabled=autocast):
            y_q, z = self.scaled(self.g_a(x).float(), quality)
        z, y_q = z.float(), y_q.float()
        z_mean, z_index = self.entropy.hyper_parameters(quality)
        z_bits = relaxed_bits(z - z_mean, z_index.expand_as(z), uniform)
        phi = self.entropy.features(round_ste(z - z_mean) + z_mean, quality)
        symbols, mean, index = self.entropy(y_q, phi)
        y_bits = relaxed_bits(y_q - mean, index, uniform)
        y_hat = self.dequantize(symbols + mean, quality)
        return Coded(y_hat=y_hat, y_bits=y_bits.sum((1, 2, 3)), z_bits=z_bits.sum((1, 2, 3)))

    def synthesize(self, y_hat: Tensor, quality: Tensor, *, perceptual: bool = False, autocast: bool = False) -> Tensor:
        """The preview of least error, or the perceptual one: y_hat (b, m, h, w) -> x (b, 3, 16h, 16w) in float32."""
        with precision.autocast(y_hat.device, enabled=autocast):
            return (self.g_p if perceptual else self.g_s)(y_hat, quality).float()
