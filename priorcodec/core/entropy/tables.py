"""The integer tables of an entropy model: what they hold, how the Gaussian ones are made, and what a reader checks. No torch.

A table is a row of cumulative frequencies, 0 to 2**PRECISION, over the symbols offset, offset + 1, ..., and one last entry, the
escape, for every other symbol. docs/format.md specifies them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.exact import LIMIT

SCALES = 64
SCALE_MIN, SCALE_MAX = 0.11, 48.0
SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1)
INDEX_GAIN = 8  # network output 1.0 moves the scale index by 8
INDEX_BIAS = 16
QUALITY_STEPS = 32  # the file's quality byte counts 1/32 of a level
PRECISION = 16  # bits of a cumulative frequency
LARGEST_SYMBOL = (1 << 15) - 1
TAIL = 5.0  # tables reach this many standard deviations; symbols beyond are escaped

Tables = Mapping[str, NDArray]


def gaussian_tables() -> dict[str, NDArray[np.int32]]:
    """Integer cumulative frequencies of the `SCALES` zero-mean Gaussians; computed once, when weights are frozen."""
    rows, offsets = [], []
    for i in range(SCALES):
        scale = SCALE_MIN * math.exp(i * SCALE_STEP)
        reach = max(2, round(TAIL * scale))
        edges = np.array([math.erfc(-(k - 0.5) / scale / math.sqrt(2)) / 2 for k in range(-reach, reach + 2)])
        pmf = np.diff(edges)
        rows.append(quantized_cdf(np.append(pmf, max(1.0 - pmf.sum(), 1e-9))))
        offsets.append(-reach)
    lengths = [len(row) for row in rows]
    cdf = np.zeros((SCALES, max(lengths)), np.int32)
    for row, values in zip(cdf, rows, strict=True):
        row[: len(values)] = values
    return {"cdf": cdf, "cdf_length": np.array(lengths, np.int32), "cdf_offset": np.array(offsets, np.int32)}


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


def check_tables(tables: Tables, m: int, m_h: int, n: int, levels: int) -> None:
    """Every table of an encoder's file: names, shapes, and the values that reading relies on.

    Args:
        m, m_h: channels of y and z; n: width of the networks; levels: of quality.
    Raises:
        ValueError, KeyError: what does not fit.
    """
    for name, shape in shapes(m, m_h, n, levels).items():
        value = tables[name]
        if value.shape != shape and not (name == "cdf" and value.ndim == 2 and len(value) == SCALES):
            raise ValueError(f"{name} is {value.shape}, wanted {shape}")
        if value.dtype.kind not in "iu":
            raise ValueError(f"{name} holds values of the wrong kind")
    _check_cdf(tables["cdf"].astype(np.int64), tables["cdf_length"].astype(np.int64))
    if not (np.abs(tables["cdf_offset"].astype(np.int64)) <= LARGEST_SYMBOL).all():
        raise ValueError("cdf_offset is out of range")
    if not (tables["z_index"].astype(np.int64) < SCALES).all() or (tables["z_index"].astype(np.int64) < 0).any():
        raise ValueError("z_index names a table that does not exist")
    for name, value in tables.items():
        limit = 2**31 if name.endswith(".bias") else LARGEST_SYMBOL if name in ("z_mean", "quality_bias") else LIMIT
        if (
            name in shapes(m, m_h, n, levels)
            and not name.startswith("cdf")
            and (np.abs(value.astype(np.int64)) > limit).any()
        ):
            raise ValueError(f"{name} is out of the range in which sums are exact")


def shapes(m: int, m_h: int, n: int, levels: int) -> dict[str, tuple[int, ...]]:
    """Of every table but the second side of `cdf`."""
    rows = (levels - 1) * QUALITY_STEPS + 1
    layers = {
        "h_s.0": (n, m_h, 1), "h_s.1": (4 * n, n, 3), "h_s.2": (4 * n, n, 3), "h_s.3": (n, n, 1),
        "anchor.0": (2 * n, n, 1), "anchor.1": (2 * m, 2 * n, 1), "context": (n, m, 3),
        "other.0": (2 * n, 2 * n, 1), "other.1": (2 * m, 2 * n, 1),
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": (o, i, k, k) for name, (o, i, k) in layers.items()}
    found |= {f"{name}.bias": (o,) for name, (o, _, _) in layers.items()}
    found |= {"quality_bias": (rows, n), "z_mean": (rows, m_h), "z_index": (rows, m_h)}
    return found | {"cdf": (SCALES, -1), "cdf_length": (SCALES,), "cdf_offset": (SCALES,)}


def _check_cdf(cdf: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    if not ((lengths >= 3) & (lengths <= cdf.shape[1])).all():
        raise ValueError("cdf_length is out of range")
    for row, length in zip(cdf, lengths, strict=True):
        used = row[:length]
        if used[0] != 0 or used[-1] != 1 << PRECISION or not (np.diff(used) > 0).all():
            raise ValueError(f"cdf does not rise from 0 to {1 << PRECISION}")
