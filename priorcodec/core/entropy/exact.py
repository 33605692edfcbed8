"""Fixed-point network layers evaluated exactly, in numpy (Balle, Johnston and Minnen, "Integer Networks for Data Compression with
Latent-Variable Models", ICLR 2019).

Activations are fixed-point integers with `FRACTION_BITS` fractional bits, weights with `WEIGHT_BITS`.
    a (integers) --gather + matmul in float64--> sum (exact: |sum| < 2**53) --floor(sum / 2**WEIGHT_BITS + 1/2)--> clamp --> a'
Every sum is exact whatever its order, so every CPU, thread count and library version gives the same integers.
`integer.IntConv2d` simulates the same arithmetic in training. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 8
WEIGHT_BITS = 10
ONE = 1 << FRACTION_BITS
LIMIT = (1 << 15) - 1
WEIGHT_LIMIT = (1 << 15) - 1
MAX_FAN_IN = 1 << 20  # 2**15 * 2**15 * 2**20 + bias < 2**53: the bound under which float64 sums are exact
MAX_GATHERED = 1 << 21  # float64 numbers gathered at a time: 16 MiB

SQUARE = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))  # taps of a 3x3 kernel, (row, column) from its center
CROSS = ((-1, 0), (0, -1), (0, 1), (1, 0))  # those of them that look at the other color of a checkerboard
CENTER = ((0, 0),)


class ExactLayer:
    """One frozen layer that reads some offsets around each position.

    Args:
        weight: int16 (c_out, c_in, k, k), k = 1 or 3.
        bias: int32 (c_out,), in units of the exact sum.
        relu: Clamp at zero, else at -LIMIT.
        taps: (row, column) offsets that are read, by default all of the kernel's; the inputs at the others must be zero.
    """

    def __init__(
        self,
        weight: NDArray[np.int16],
        bias: NDArray[np.int32],
        *,
        relu: bool,
        taps: Sequence[tuple[int, int]] | None = None,
    ):
        kernel = weight.shape[-1]
        self.taps = tuple(taps or (CENTER if kernel == 1 else SQUARE))
        rows, columns = zip(*self.taps, strict=True)
        picked = weight[:, :, np.array(rows) + kernel // 2, np.array(columns) + kernel // 2]
        self.matrix = np.ascontiguousarray(picked.transpose(2, 1, 0), dtype=np.float64).reshape(-1, len(weight))
        self.bias = bias.astype(np.float64)
        self.low = 0 if relu else -LIMIT

    def product(self, columns: NDArray[np.float64]) -> NDArray[np.int16]:
        """columns: float64 integers (positions, taps * c_in), tap by tap -> (positions, c_out)."""
        total = columns @ self.matrix
        total += self.bias
        total *= 1 / (1 << WEIGHT_BITS)  # a power of two: exact
        total += 0.5
        np.floor(total, out=total)
        return np.clip(total, self.low, LIMIT, out=total).astype(np.int16)

    def strips(self, positions: int) -> Iterator[slice]:
        """Slices that together are all positions, each small enough for `product`."""
        step = max(1, MAX_GATHERED // max(self.matrix.shape))
        return (slice(start, min(start + step, positions)) for start in range(0, positions, step))

    def gather(self, padded: NDArray, at: NDArray[np.intp]) -> NDArray[np.float64]:
        """What the layer looks at: padded (h + 2, w + 2, c) integers, at: positions of the padded grid, counted row by row."""
        shifts = np.array([i * padded.shape[1] + j for i, j in self.taps])
        columns = padded.reshape(-1, padded.shape[2])[at[:, None] + shifts]
        return columns.reshape(len(at), -1).astype(np.float64)

    def __call__(self, a: NDArray) -> NDArray[np.int16]:
        """The whole layer, stride 1, zeros around: integers (h, w, c_in) -> (h, w, c_out)."""
        h, w, _ = a.shape
        if self.taps == CENTER:
            flat = a.reshape(h * w, -1)
            parts = [self.product(flat[strip].astype(np.float64)) for strip in self.strips(h * w)]
        else:
            padded, at = np.pad(a, ((1, 1), (1, 1), (0, 0))), inner(h, w)
            parts = [self.product(self.gather(padded, at[strip])) for strip in self.strips(h * w)]
        return np.concatenate(parts).reshape(h, w, -1)


def inner(h: int, w: int) -> NDArray[np.intp]:
    """Positions of a grid (h, w) within the same grid with a border of one, counted row by row."""
    return ((np.arange(h)[:, None] + 1) * (w + 2) + np.arange(w) + 1).reshape(-1)


def pixel_shuffle(a: NDArray) -> NDArray:
    """(h, w, 4c) -> (2h, 2w, c); channel 4k + 2i + j goes to row i and column j of each 2x2 block, as in torch."""
    h, w, c = a.shape
    return a.reshape(h, w, c // 4, 2, 2).transpose(0, 3, 1, 4, 2).reshape(2 * h, 2 * w, c // 4)
