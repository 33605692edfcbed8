"""The trainable entropy model: mean-scale hyperprior with a checkerboard context, all on integer networks.

Minnen et al., NeurIPS 2018 (mean and scale); He et al., CVPR 2021 (checkerboard); Balle et al., ICLR 2019 (integers).
    hyper-latent z_h @64 --h_s (integer)--> phi @16 --+--> (mean, index) of the anchor positions
                                                      +-- context of decoded anchors --> (mean, index) of the others
An index names one of `SCALES` Gaussian tables; a mean is a fixed-point integer. What this module learns is frozen by
`tables()` into integers, which `frozen.FrozenEntropyModel` evaluates without any rounding error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from priorcodec.core.entropy.integer import LIMIT, ONE, WEIGHT_BITS, IntConv2d, clamp_ste, round_ste, to_integers
from priorcodec.core.entropy.tables import INDEX_BIAS, INDEX_GAIN, QUALITY_STEPS, SCALE_MIN, SCALE_STEP, SCALES, Tables
from priorcodec.core.errors import WeightsError


def scale_of(index: Tensor) -> Tensor:
    """Standard deviation of table `index` (any real in [0, SCALES - 1]), in symbols."""
    return SCALE_MIN * torch.exp(index * SCALE_STEP)


def gaussian_bits(offset: Tensor, index: Tensor) -> Tensor:
    """Bits of a symbol whose distance from the mean is `offset`, under the table `index`; same shape, unit bit."""
    scale = scale_of(index)
    v = offset.abs()
    upper = torch.special.ndtr((0.5 - v) / scale)
    lower = torch.special.ndtr((-0.5 - v) / scale)
    return -torch.log2((upper - lower).clamp_min(2.0**-16))


def relaxed_bits(offset: Tensor, index: Tensor, uniform: Callable[[Tensor], Tensor] = torch.rand_like) -> Tensor:
    """Differentiable bits of rounding `offset`: uniform noise in place of rounding, without what the noise itself costs.

    uniform: tensor -> values in [0, 1) of its shape; a trainer gives its own to be the same in one process and in several.

    Noise alone (Balle et al. 2017) charges a sure zero 0.1 bit, which at low rates is most of the bill; rounding with a
    straight-through gradient charges right but never pulls a value back to zero. This is right at zero, and pulls.
    """
    noise = uniform(offset) - 0.5
    certain = gaussian_bits(torch.zeros_like(offset), index)
    return gaussian_bits(offset + noise, index) - gaussian_bits(noise, index) + certain


def interpolate(table: Tensor, quality: Tensor) -> Tensor:
    """Rows of `table` (levels, c) at fractional levels `quality` (b,) -> (b, c), linear between levels."""
    low = quality.floor().clamp(0, len(table) - 2).long()
    frac = (quality - low)[:, None]
    return table[low] * (1 - frac) + table[low + 1] * frac


def anchors(h: int, w: int, device: torch.device | str = "cpu") -> Tensor:
    """Checkerboard mask (h, w): True where a position is decoded in the first pass."""
    i, j = torch.arange(h, device=device), torch.arange(w, device=device)
    return (i[:, None] + j[None, :]) % 2 == 0


class EntropyModel(nn.Module):
    """What the decoder must know to read the symbols. Shapes: y is (b, m, h, w), z_h is (b, m_h, h/4, w/4)."""

    def __init__(self, m: int, m_h: int, n: int, levels: int):
        super().__init__()
        self.m, self.levels = m, levels
        self.h_s = nn.ModuleList(
            [IntConv2d(m_h, n, 1), IntConv2d(n, 4 * n, 3), IntConv2d(n, 4 * n, 3), IntConv2d(n, n, 1)]
        )
        self.anchor = nn.ModuleList([IntConv2d(n, 2 * n), IntConv2d(2 * n, 2 * m, relu=False)])
        self.context = IntConv2d(m, n, 3, relu=False)
        self.other = nn.ModuleList([IntConv2d(2 * n, 2 * n), IntConv2d(2 * n, 2 * m, relu=False)])
        self.quality_bias = nn.Parameter(torch.zeros(levels, n))
        self.z_index = nn.Parameter(torch.full((levels, m_h), 3.0))
        self.z_mean = nn.Parameter(torch.zeros(levels, m_h))

    def hyper_parameters(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """quality (b,) -> (mean, index) of the hyper-latent, each (b, m_h, 1, 1)."""
        mean = round_ste(interpolate(self.z_mean, quality) * ONE) / ONE
        index = clamp_ste(interpolate(self.z_index, quality) * INDEX_GAIN, 0, SCALES - 1)
        return mean[..., None, None], index[..., None, None]

    def features(self, z_hat: Tensor, quality: Tensor) -> Tensor:
        """Decoded hyper-latent and quality -> phi (b, n, h, w)."""
        first, second, third, last = self.h_s
        bias = round_ste(interpolate(self.quality_bias, quality) * ONE) / ONE
        a = (first(_fixed(z_hat)) + bias[..., None, None]).clamp(0, LIMIT / ONE)
        a = F.pixel_shuffle(second(a), 2)
        a = F.pixel_shuffle(third(a), 2)
        return last(a)

    def split(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Network output (b, 2m, h, w) -> mean, index (b, m, h, w)."""
        mean, index = out.chunk(2, dim=1)
        return mean, clamp_ste(index * INDEX_GAIN + INDEX_BIAS, 0, SCALES - 1)

    def forward(
        self, y: Tensor, phi: Tensor, rounding: Callable[[Tensor], Tensor] = round_ste
    ) -> tuple[Tensor, Tensor]:
        """Scaled features y and phi -> mean, index of every position, the context made from y's own rounding."""
        mask = anchors(*y.shape[-2:], device=y.device)
        mean_a, index_a = self.split(self.anchor[1](self.anchor[0](phi)))
        seen = torch.where(mask, _fixed(rounding(y - mean_a) + mean_a), 0.0)
        ctx = self.context(seen)
        mean_o, index_o = self.split(self.other[1](self.other[0](torch.cat([phi, ctx], 1))))
        return torch.where(mask, mean_a, mean_o), torch.where(mask, index_a, index_o)

    @torch.no_grad()
    def tables(self) -> dict[str, NDArray]:
        """Everything above as integers, one row per quality byte where the quality matters.

        Raises WeightsError: a value is not finite, or does not fit its integer type.
        """
        out: dict[str, NDArray] = {}
        for name, module in self.named_modules():
            if isinstance(module, IntConv2d):
                try:
                    out |= {f"{name}.{key}": value for key, value in module.tables().items()}
                except WeightsError as error:
                    raise WeightsError(f"{name}.{error}") from error
        quality = torch.arange((self.levels - 1) * QUALITY_STEPS + 1, device=self.z_mean.device) / QUALITY_STEPS
        for name, table in (("quality_bias", self.quality_bias), ("z_mean", self.z_mean)):
            out[name] = to_integers(name, interpolate(table, quality).double() * ONE, np.int16)
        index = interpolate(self.z_index, quality).double() * INDEX_GAIN
        out["z_index"] = to_integers("z_index", index.clamp(0, SCALES - 1), np.int16).astype(np.uint8)
        return out

    @torch.no_grad()
    def load_tables(self, tables: Tables) -> None:
        """Undo `tables`: the frozen integers as real numbers, to simulate coding inside a later training."""

        def fill(parameter: Tensor, name: str, unit: int, step: int = 1) -> None:
            parameter.copy_(torch.from_numpy(tables[name][::step].astype(np.float64) / unit))

        for name, module in self.named_modules():
            if isinstance(module, IntConv2d):
                fill(module.weight, f"{name}.weight", 1 << WEIGHT_BITS)
                fill(module.bias, f"{name}.bias", (1 << WEIGHT_BITS) * ONE)
        fill(self.quality_bias, "quality_bias", ONE, QUALITY_STEPS)
        fill(self.z_mean, "z_mean", ONE, QUALITY_STEPS)
        fill(self.z_index, "z_index", INDEX_GAIN, QUALITY_STEPS)


def _fixed(a: Tensor) -> Tensor:
    """Keep a decoded value inside the fixed-point range, as the exact evaluation does."""
    return a.clamp(-LIMIT / ONE, LIMIT / ONE)
