"""Frequency tables fitted to counted symbols, for an encoder that is about to be frozen. No torch.

    images of training --FrozenEntropyModel.quantize, at every level--> symbols with table indices --SymbolCounts--> tables
Counts are made symmetric and mixed with `PSEUDO` counts of the Gaussian that training assumed; a table whose symbols were seldom
seen keeps the Gaussian.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.coder import CoderTables
from priorcodec.core.entropy.tables import SCALE_MIN, SCALE_STEP, SCALES, TAIL, gaussian_pmf, quantized_cdf, table_set

REACH = 300  # counted symbols: -REACH to REACH, those beyond at the ends
PSEUDO = 50.0
SEEN = 2000  # counts below which a table keeps the Gaussian
RARE = 2e-5  # the probability of an outermost symbol under which it is escaped: a frequency of its own would cost more


class SymbolCounts:
    """What was coded with each table.

    Attributes:
        counts: "y" and "z" -> float64 (SCALES, 2 * REACH + 1).
    """

    def __init__(self) -> None:
        self.counts = {kind: np.zeros((SCALES, 2 * REACH + 1)) for kind in "yz"}

    def add(self, symbols: NDArray[np.int16], index: NDArray[np.uint8], tables: CoderTables) -> None:
        """One pass: to be given to `FrozenEntropyModel.quantize`. Certain zeros do not count."""
        flat = index.reshape(-1)
        column = np.clip(symbols.reshape(-1), -REACH, REACH).astype(np.intp) + REACH
        found = np.bincount(flat * np.intp(2 * REACH + 1) + column, minlength=SCALES * (2 * REACH + 1))
        counts = found.reshape(SCALES, -1)
        counts[: tables.certain] = 0
        self.counts[tables.kind] += counts

    def tables(self) -> dict[str, NDArray[np.int32]]:
        """Fitted tables of both alphabets, as `save_encoder` takes them."""
        return table_set("y", fitted(self.counts["y"])) | table_set("z", fitted(self.counts["z"]))


def fitted(counts: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Counts (SCALES, 2 * REACH + 1) -> cumulative frequencies of each table: symmetric symbols, then the escape."""
    return [fitted_row(row, SCALE_MIN * math.exp(i * SCALE_STEP)) for i, row in enumerate(counts)]


def fitted_row(count: NDArray[np.float64], scale: float) -> NDArray[np.int64]:
    """Counts (2 * REACH + 1) of one table, and the standard deviation of its Gaussian in steps -> cumulative frequencies."""
    reach = min(REACH - 1, max(1, round(TAIL * scale)))
    p = gaussian_pmf(scale, reach)
    tail, seen = 1 - p.sum(), count.sum()
    if seen >= SEEN:
        inside = count[REACH - reach : REACH + reach + 1]
        inside = (inside + inside[::-1]) / 2
        p = (inside + PSEUDO * p) / (seen + PSEUDO)
        tail = (seen - inside.sum() + 0.5) / (seen + PSEUDO)
    while reach > 1 and p[0] < RARE:
        tail, p, reach = tail + 2 * p[0], p[1:-1], reach - 1
    p = np.append(p, max(tail, 1e-9))
    return quantized_cdf(p / p.sum())
