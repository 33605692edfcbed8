"""The trainable entropy model: hyperprior, then channel groups by energy, each in two checkerboard passes; integer networks.

Minnen et al., NeurIPS 2018 (mean and scale); Minnen & Singh, ICIP 2020 (channel-conditional); He et al., ELIC, CVPR 2022 (uneven
groups and checkerboard); Balle et al., ICLR 2019 (integers).
    hyper-latent z_h @64 --h_s (integer)--> phi @16
    for every group of channels g, most energetic first:
        phi, values of all earlier groups (3x3)                        --> mean, index of the anchor positions of g
        phi, values of all earlier groups (3x3), own anchors (4 taps)  --> mean, index of the other positions of g
An index names one of `SCALES` tables; below `certain` the symbol is zero by rule and nothing is coded. A mean is a fixed-point
integer. What this module learns is frozen by `tables()` into integers, which `frozen.FrozenEntropyModel` evaluates without any
rounding error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from priorcodec.core.entropy.exact import LIMIT, ONE, WEIGHT_BITS
from priorcodec.core.entropy.integer import IntConv2d, clamp_ste, round_ste, to_integers
from priorcodec.core.entropy.tables import (
    CERTAIN,
    INDEX_BIAS,
    INDEX_GAIN,
    QUALITY_STEPS,
    SCALE_MIN,
    SCALE_STEP,
    SCALES,
    Tables,
)
from priorcodec.core.errors import WeightsError


def scale_of(index: Tensor) -> Tensor:
    """Standard deviation of table `index` (any real in [0, SCALES - 1]), in symbols."""
    return SCALE_MIN * torch.exp(index * SCALE_STEP)


def gaussian_bits(offset: Tensor, index: Tensor) -> Tensor:
    """Bits of a symbol at distance `offset` from the mean, under the table `index`; same shape, unit bit."""
    scale = scale_of(index)
    v = offset.abs()
    upper = torch.special.ndtr((0.5 - v) / scale)
    lower = torch.special.ndtr((-0.5 - v) / scale)
    return -torch.log2((upper - lower).clamp_min(2.0**-16))


def relaxed_bits(offset: Tensor, index: Tensor, uniform: Callable[[Tensor], Tensor] = torch.rand_like) -> Tensor:
    """Differentiable bits of rounding `offset`: uniform noise in place of rounding, minus the cost of the noise itself.

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


class Pass(nn.Module):
    """phi and decoded values -> mean and index of one group at one parity: a 3x3 over the values, then two 1x1."""

    def __init__(self, n: int, c_values: int, c_group: int):
        super().__init__()
        self.context = IntConv2d(c_values, n, 3, relu=False) if c_values else None
        self.first = IntConv2d(2 * n if c_values else n, 2 * n)
        self.last = IntConv2d(2 * n, 2 * c_group, relu=False)

    def forward(self, phi: Tensor, values: Tensor | None, odd: bool) -> tuple[Tensor, Tensor]:
        """phi (b, n, h, w/2) of one parity, values (b, c_values, h, w) -> mean, index (b, c_group, h, w/2)."""
        if self.context is not None and values is not None:
            phi = torch.cat([phi, packed(self.context(values), odd)], 1)
        hidden = self.first(phi)
        hidden = hidden.float() if hidden.dtype == torch.bfloat16 else hidden
        with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 is too coarse for means
            mean, index = self.last(hidden).chunk(2, dim=1)
        return mean, clamp_ste(index * INDEX_GAIN + INDEX_BIAS, 0, SCALES - 1)


class EntropyModel(nn.Module):
    """The information the decoder needs to read the symbols. Shapes: y is (b, m, h, w), z_hat is (b, m_h, h/4, w/4).

    Args:
        m: Coded channels.
        m_h: Channels of the hyper-latent.
        n: Width of the networks.
        levels: Quality levels.
        groups: Channels of each group, in the order of decoding.
        certain: Table indices below it force zeros.

    Raises:
        ValueError: The groups do not add up to m.
    """

    def __init__(self, m: int, m_h: int, n: int, levels: int, groups: Sequence[int], *, certain: int = CERTAIN):
        super().__init__()
        if sum(groups) != m:
            raise ValueError(f"groups {tuple(groups)} do not make {m} channels")
        self.m, self.levels, self.groups, self.certain = m, levels, tuple(groups), certain
        self.h_s = nn.ModuleList(
            [IntConv2d(m_h, n, 1), IntConv2d(n, 4 * n, 3), IntConv2d(n, 4 * n, 3), IntConv2d(n, n, 1)]
        )
        before = [sum(groups[:g]) for g in range(len(groups))]
        self.anchor = nn.ModuleList([Pass(n, b, c) for b, c in zip(before, groups, strict=True)])
        self.other = nn.ModuleList([Pass(n, b + c, c) for b, c in zip(before, groups, strict=True)])
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

    def forward(
        self,
        y: Tensor,
        phi: Tensor,
        rounding: Callable[[Tensor], Tensor] = round_ste,
        certain: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled features y and phi -> symbols, mean, index of every position, each (b, m, h, w).

        rounding: of the offsets from the mean, half a checkerboard of one group at a time; the context is made from it.
        certain: table indices below it force zeros; None for the model's own.
        """
        certain = self.certain if certain is None else certain
        phi_a, phi_o = packed(phi, False), packed(phi, True)
        done: list[Tensor] = []
        out: list[list[Tensor]] = [[], [], []]
        for target, at_anchor, at_other in zip(y.split(self.groups, 1), self.anchor, self.other, strict=True):
            both = []
            seen = torch.cat(done, 1) if done else None
            for odd, phi_half, net in ((False, phi_a, at_anchor), (True, phi_o, at_other)):
                mean, index = net(phi_half, seen, odd)
                symbol = rounding(packed(target, odd) - mean) * (index.detach() >= certain - 0.5)
                value = _fixed(symbol + mean)
                if not odd:
                    seen = torch.cat([*done, unpacked(value, torch.zeros_like(value))], 1)
                both.append((symbol, mean, index, value))
            for kept, a, o in zip([*out, done], *both, strict=True):
                kept.append(unpacked(a, o))
        return torch.cat(out[0], 1), torch.cat(out[1], 1), torch.cat(out[2], 1)

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


def packed(x: Tensor, odd: bool) -> Tensor:
    """The anchors of a checkerboard (row + column even), or the others, (b, c, h, w) -> (b, c, h, w/2); h, w even."""
    b, c, h, w = x.shape
    cells = x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, c)
    half = torch.stack([cells[:, :, 0, :, int(odd)], cells[:, :, 1, :, int(not odd)]], 2)
    return half.view(b, h, w // 2, c).permute(0, 3, 1, 2)


def unpacked(anchor: Tensor, other: Tensor) -> Tensor:
    """Undo `packed`: both halves (b, c, h, w/2) -> (b, c, h, w)."""
    b, c, h, w = anchor.shape
    a, o = (x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w, 1, c) for x in (anchor, other))
    rows = torch.stack([torch.cat([a[:, :, 0], o[:, :, 0]], 3), torch.cat([o[:, :, 1], a[:, :, 1]], 3)], 2)
    return rows.view(b, h, 2 * w, c).permute(0, 3, 1, 2)


def _fixed(a: Tensor) -> Tensor:
    """Keep a decoded value inside the fixed-point range, as the exact evaluation does."""
    return a.clamp(-LIMIT / ONE, LIMIT / ONE)
