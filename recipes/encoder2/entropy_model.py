"""The trainable entropy model of encoder 2: hyperprior, then channel groups by energy, each in two checkerboard passes.

Minnen & Singh, ICIP 2020 (channel-conditional); He et al., ELIC, CVPR 2022 (uneven groups x checkerboard); Balle et al., ICLR
2019 (integers).
    hyper-latent z_hat @64 --h_s (integer)--> phi @16
    for every group of channels g, most energetic first:
        phi, values of all earlier groups (3x3)                        --> mean, index of the anchor positions of g
        phi, values of all earlier groups (3x3), own anchors (4 taps)  --> mean, index of the other positions of g
An index names one of `SCALES` tables; below `CERTAIN` the symbol is zero by rule and nothing is coded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from priorcodec.core.entropy.entropy_model import interpolate
from priorcodec.core.entropy.exact import LIMIT, ONE, ExactLayer, pixel_shuffle
from priorcodec.core.entropy.integer import IntConv2d, clamp_ste, round_ste, to_integers
from priorcodec.core.entropy.tables import INDEX_BIAS, INDEX_GAIN, SCALES, Tables

QUALITY_STEPS = 16  # the file's quality byte counts 1/16 of a level: 12 levels are bytes 0 to 176
CERTAIN = 5  # table indices 0 to CERTAIN - 1: the symbol is zero, nothing is coded


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
        with torch.autocast(hidden.device.type, enabled=False):
            mean, index = self.last(_wide(hidden)).chunk(2, dim=1)
        return mean, clamp_ste(index * INDEX_GAIN + INDEX_BIAS, 0, SCALES - 1)


class EntropyModel2(nn.Module):
    """What the decoder must know to read the symbols. Shapes: y is (b, m, h, w), z_hat is (b, m_h, h/4, w/4).

    Args:
        m, m_h, n, levels: coded channels, hyper-latent channels, width, quality levels; groups: channels of each, in the order
            of decoding.
    """

    def __init__(self, m: int, m_h: int, n: int, levels: int, groups: Sequence[int]):
        super().__init__()
        if sum(groups) != m:
            raise ValueError(f"groups {tuple(groups)} do not make {m} channels")
        self.m, self.levels, self.groups = m, levels, tuple(groups)
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
        certain: int = CERTAIN,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled features y and phi -> symbols, mean, index of every position, each (b, m, h, w).

        rounding: of the offsets from the mean, from which the context is made; certain: table indices below it force zeros.
        """
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
        """Everything above as integers, one row per quality byte where the quality matters."""
        out: dict[str, NDArray] = {}
        for name, module in self.named_modules():
            if isinstance(module, IntConv2d):
                out |= {f"{name}.{key}": value for key, value in module.tables().items()}
        quality = torch.arange((self.levels - 1) * QUALITY_STEPS + 1, device=self.z_mean.device) / QUALITY_STEPS
        for name, table in (("quality_bias", self.quality_bias), ("z_mean", self.z_mean)):
            out[name] = to_integers(name, interpolate(table, quality).double() * ONE, np.int16)
        index = interpolate(self.z_index, quality).double() * INDEX_GAIN
        out["z_index"] = to_integers("z_index", index.clamp(0, SCALES - 1), np.int16).astype(np.uint8)
        return out


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


def exact_parameters(
    tables: Tables, z_hat: NDArray[np.int16], values: NDArray[np.int16], quality: int, groups: Sequence[int]
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """The reference of the exact evaluation: what a coder must reproduce with integers.

    Args:
        tables: What `EntropyModel2.tables` gave.
        z_hat: Decoded integers (h/4, w/4, m_h) in units of 1/ONE.
        values: The same of the latent, (h, w, m).
        quality: The file's byte.
        groups: Channels of each group.

    Returns:
        mean (units of 1/ONE) and index of every position, (h, w, m), each given the values decoded before it.
    """

    def layer(name: str, a: NDArray, *, relu: bool = True) -> NDArray[np.int16]:
        return ExactLayer(tables[f"{name}.weight"], tables[f"{name}.bias"], relu=relu)(a)

    a = np.clip(layer("h_s.0", z_hat).astype(np.int32) + tables["quality_bias"][quality], 0, LIMIT)
    phi = layer("h_s.3", pixel_shuffle(layer("h_s.2", pixel_shuffle(layer("h_s.1", a)))))
    rows, columns = np.indices(values.shape[:2])
    mask = ((rows + columns) % 2 == 0)[..., None]
    means, indices, start = [], [], 0
    for g, c in enumerate(groups):
        both = []
        own = np.where(mask, values[..., start : start + c], 0)
        for name, seen in (
            (f"anchor.{g}", values[..., :start]),
            (f"other.{g}", np.append(values[..., :start], own, 2)),
        ):
            inputs = np.append(phi, layer(f"{name}.context", seen, relu=False), 2) if seen.shape[2] else phi
            mean, index = np.split(layer(f"{name}.last", layer(f"{name}.first", inputs), relu=False), 2, axis=2)
            index = np.floor(index * (INDEX_GAIN / ONE) + 0.5) + INDEX_BIAS
            both.append((mean, np.clip(index, 0, SCALES - 1).astype(np.uint8)))
        means.append(np.where(mask, both[0][0], both[1][0]))
        indices.append(np.where(mask, both[0][1], both[1][1]))
        start += c
    return np.concatenate(means, 2), np.concatenate(indices, 2)


def _wide(a: Tensor) -> Tensor:
    """What autocast made bfloat16 as float32."""
    return a.float() if a.dtype == torch.bfloat16 else a


def _fixed(a: Tensor) -> Tensor:
    """Keep a decoded value inside the fixed-point range, as the exact evaluation does."""
    return a.clamp(-LIMIT / ONE, LIMIT / ONE)
