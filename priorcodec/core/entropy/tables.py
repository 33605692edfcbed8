"""The integer tables of an entropy model: what they hold, how the Gaussian ones are made, and what a reader checks. No torch.

A table is a row of cumulative frequencies, 0 to 2**PRECISION, over the symbols offset, offset + 1, ..., and one last entry, the
escape, for every other symbol. There is a set of `SCALES` of them for y and one for z. docs/format.md specifies them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.exact import LIMIT

SCALES = 64
SCALE_MIN, SCALE_MAX = 0.11, 48.0
SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1)
INDEX_GAIN = 8  # network output 1.0 moves the scale index by 8
INDEX_BIAS = 16
QUALITY_STEPS = 16  # the file's quality byte counts 1/16 of a level
CERTAIN = 5  # table indices of y below it: the symbol is zero, nothing is coded
PRECISION = 16  # bits of a cumulative frequency
LARGEST_SYMBOL = (1 << 15) - 1
TAIL = 5.0  # tables reach this many standard deviations; symbols beyond are escaped

Tables = Mapping[str, NDArray]


def gaussian_tables() -> dict[str, NDArray[np.int32]]:
    """Cumulative frequencies of the `SCALES` zero-mean Gaussians, for y and for z: the tables before symbols are counted."""
    rows = []
    for i in range(SCALES):
        scale = SCALE_MIN * math.exp(i * SCALE_STEP)
        reach = max(2, round(TAIL * scale))
        pmf = gaussian_pmf(scale, reach)
        rows.append(quantized_cdf(np.append(pmf, max(1.0 - pmf.sum(), 1e-9))))
    return table_set("y", rows) | table_set("z", rows)


def gaussian_pmf(scale: float, reach: int) -> NDArray[np.float64]:
    """Probabilities of the symbols -reach to reach under a zero-mean Gaussian of standard deviation `scale`."""
    edges = np.array([math.erfc(-(k - 0.5) / scale / math.sqrt(2)) / 2 for k in range(-reach, reach + 2)])
    return np.diff(edges)


def table_set(kind: str, rows: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[np.int32]]:
    """Cumulative frequencies of symmetric tables -> arrays of a weight file, whose names start with `kind`: "y", "z" or "t"."""
    lengths = [len(row) for row in rows]
    cdf = np.zeros((len(rows), max(lengths)), np.int32)
    for row, values in zip(cdf, rows, strict=True):
        row[: len(values)] = values
    offsets = [-((length - 3) // 2) for length in lengths]  # as many symbols on either side of zero, then the escape
    return {
        f"{kind}_cdf": cdf,
        f"{kind}_cdf_length": np.array(lengths, np.int32),
        f"{kind}_cdf_offset": np.array(offsets, np.int32),
    }


def quantized_cdf(pmf: NDArray[np.float64]) -> NDArray[np.int64]:
    """Probabilities (n,) -> cumulative frequencies (n + 1,) from 0 to 2**PRECISION, each entry with a frequency of at least 1.

    As in ryg_rans and CompressAI: rounded, and what a rare entry needs is taken from the rarest that can give.
    """
    frequency = np.floor(pmf.astype(np.float32) * np.float32(1 << PRECISION) + np.float32(0.5)).astype(np.int64)
    frequency = (frequency << PRECISION) // frequency.sum()
    cdf = np.append(0, np.cumsum(frequency))
    cdf[-1] = 1 << PRECISION
    for i in range(len(pmf)):
        if cdf[i] == cdf[i + 1]:
            given = np.diff(cdf)
            giver = int(np.where(given > 1, given, 1 << 30).argmin())
            if giver < i:
                cdf[giver + 1 : i + 1] -= 1
            else:
                cdf[i + 1 : giver + 1] += 1
    return cdf


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the shapes of an entropy model's tables follow from.

    Attributes:
        m_h: Channels of the hyper-latent.
        n: Width of the networks.
        levels: Quality levels.
        groups: Coded channels of each group, in the order of decoding.
    """

    m_h: int
    n: int
    levels: int
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Quality bytes."""
        return (self.levels - 1) * QUALITY_STEPS + 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every table but the second side of the cdfs."""
        n = self.n
        layers = {
            "h_s.0": (n, self.m_h, 1), "h_s.1": (4 * n, n, 3), "h_s.2": (4 * n, n, 3), "h_s.3": (n, n, 1),
        }  # fmt: skip
        start = 0
        for g, count in enumerate(self.groups):
            for name, seen in (f"anchor.{g}", start), (f"other.{g}", start + count):
                if seen:
                    layers[f"{name}.context"] = (n, seen, 3)
                layers[f"{name}.first"] = (2 * n, 2 * n if seen else n, 1)
                layers[f"{name}.last"] = (2 * count, 2 * n, 1)
            start += count
        found: dict[str, tuple[int, ...]] = {f"{name}.weight": (o, i, k, k) for name, (o, i, k) in layers.items()}
        found |= {f"{name}.bias": (o,) for name, (o, _, _) in layers.items()}
        found |= {"quality_bias": (self.rows, n), "z_mean": (self.rows, self.m_h), "z_index": (self.rows, self.m_h)}
        for kind in "yz":
            found |= {f"{kind}_cdf": (SCALES, -1), f"{kind}_cdf_length": (SCALES,), f"{kind}_cdf_offset": (SCALES,)}
        return found


def check_tables(tables: Tables, sizes: Sizes) -> None:
    """Check every table of an encoder's file: names, shapes, and the values that reading relies on.

    Raises:
        ValueError, KeyError: One does not fit, or is missing.
    """
    shapes = sizes.shapes()
    for name, shape in shapes.items():
        value = tables[name]
        if value.shape != shape and not (name.endswith("_cdf") and value.ndim == 2 and len(value) == SCALES):
            raise ValueError(f"{name} is {value.shape}, wanted {shape}")
        if value.dtype.kind not in "iu":
            raise ValueError(f"{name} holds values of the wrong kind")
    for kind in "yz":
        _check_cdf(f"{kind}_cdf", *(tables[f"{kind}_cdf{end}"].astype(np.int64) for end in ("", "_length")))
        if not (np.abs(tables[f"{kind}_cdf_offset"].astype(np.int64)) <= LARGEST_SYMBOL).all():
            raise ValueError(f"{kind}_cdf_offset is out of range")
    if not (tables["z_index"].astype(np.int64) < SCALES).all() or (tables["z_index"].astype(np.int64) < 0).any():
        raise ValueError("z_index names a table that does not exist")
    for name in shapes:
        limit = 2**31 if name.endswith(".bias") else LARGEST_SYMBOL if name in ("z_mean", "quality_bias") else LIMIT
        if "_cdf" not in name and not -limit <= int(tables[name].min()) <= int(tables[name].max()) <= limit:
            raise ValueError(f"{name} is out of the range in which sums are exact")


def _check_cdf(name: str, cdf: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    if not ((lengths >= 3) & (lengths <= cdf.shape[1])).all():
        raise ValueError(f"{name}_length is out of range")
    for row, length in zip(cdf, lengths, strict=True):
        used = row[:length]
        if used[0] != 0 or used[-1] != 1 << PRECISION or not (np.diff(used) > 0).all():
            raise ValueError(f"{name} does not rise from 0 to {1 << PRECISION}")
