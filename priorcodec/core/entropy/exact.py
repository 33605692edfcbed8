"""Fixed-point network layers evaluated exactly, in numpy (Balle, Johnston and Minnen, "Integer Networks for Data Compression with
Latent-Variable Models", ICLR 2019).

Activations are fixed-point integers with `FRACTION_BITS` fractional bits, weights with `WEIGHT_BITS`.
    a (integers) --gather + matmul in float64--> sum (exact: |sum| < 2**53) --floor(sum / 2**WEIGHT_BITS + 1/2)--> clamp --> a'
Every sum is exact whatever its order, so every CPU, thread count and library version gives the same integers.
`integer.IntConv2d` simulates the same arithmetic in training. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 8
WEIGHT_BITS = 10
ONE = 1 << FRACTION_BITS
LIMIT = (1 << 15) - 1
WEIGHT_LIMIT = (1 << 15) - 1
MAX_FAN_IN = 1 << 20  # 2**15 * 2**15 * 2**20 + bias < 2**53: the bound under which float64 sums are exact
MAX_GATHERED = 1 << 21  # float64 numbers gathered at a time: 16 MiB

Taps: TypeAlias = "tuple[tuple[int, int], ...]"
# Taps of a 3x3 kernel, (row, column) from its center; those of them that look at the other color of a checkerboard.
SQUARE: Taps = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))
CROSS: Taps = ((-1, 0), (0, -1), (0, 1), (1, 0))
CENTER: Taps = ((0, 0),)


class ExactLayer:
    """One frozen layer that reads some offsets around each position.

    Args:
        weight: int16 (c_out, c_in, k, k), k = 1 or 3.
        bias: int32 (c_out,), in units of the exact sum.
        relu: Clamp at zero, else at -LIMIT.
        reads: Ranges of input channels, in order from channel 0, each with the (row, column) offsets at which it is read. The
            inputs at other offsets must be zero. By default all channels are read at all offsets of the kernel.
    """

    def __init__(
        self,
        weight: NDArray[np.int16],
        bias: NDArray[np.int32],
        *,
        relu: bool,
        reads: Sequence[tuple[slice, Taps]] | None = None,
    ):
        kernel = weight.shape[-1]
        self.reads = tuple(reads or [(slice(0, weight.shape[1]), CENTER if kernel == 1 else SQUARE)])
        parts = []
        for channels, taps in self.reads:
            rows, columns = (np.array(side) + kernel // 2 for side in zip(*taps, strict=True))
            parts.append(weight[:, channels, rows, columns].transpose(2, 1, 0).reshape(-1, len(weight)))
        self.matrix = np.ascontiguousarray(np.concatenate(parts), dtype=np.float64)
        self.bias = bias.astype(np.float64)
        self.low = 0 if relu else -LIMIT

    def product(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """columns: integers (positions, taps * c_in), tap by tap of each range -> integers (positions, c_out)."""
        total = columns @ self.matrix
        total += self.bias
        total *= 1 / (1 << WEIGHT_BITS)  # a power of two: exact
        total += 0.5
        np.floor(total, out=total)
        return np.clip(total, self.low, LIMIT, out=total)

    def strips(self, positions: int) -> Iterator[slice]:
        """Slices that together are all positions, each small enough for `product`."""
        step = max(1, MAX_GATHERED // max(self.matrix.shape))
        return (slice(start, min(start + step, positions)) for start in range(0, positions, step))

    def gather(self, padded: NDArray, at: NDArray[np.intp]) -> NDArray[np.float64]:
        """What the layer looks at: padded (h + 2, w + 2, c) integers, at: positions of the padded grid, counted row by row."""
        flat, columns = padded.reshape(-1, padded.shape[2]), np.empty((len(at), len(self.matrix)))
        start = 0
        for channels, taps in self.reads:
            source, width = flat[:, channels], channels.stop - channels.start
            for row, column in taps:
                columns[:, start : start + width] = source[at + (row * padded.shape[1] + column)]
                start += width
        return columns

    def __call__(self, a: NDArray) -> NDArray[np.int16]:
        """The whole layer, stride 1, zeros around: integers (h, w, c_in) -> (h, w, c_out)."""
        h, w, _ = a.shape
        out = np.empty((h * w, self.matrix.shape[1]), np.int16)
        if self.reads[0][1] == CENTER:
            flat = a.reshape(h * w, -1)
            for strip in self.strips(h * w):
                out[strip] = self.product(flat[strip].astype(np.float64))
        else:
            padded, at = np.pad(a, ((1, 1), (1, 1), (0, 0))), inner(h, w)
            for strip in self.strips(h * w):
                out[strip] = self.product(self.gather(padded, at[strip]))
        return out.reshape(h, w, -1)


def inner(h: int, w: int) -> NDArray[np.intp]:
    """Positions of a grid (h, w) within the same grid with a border of one, counted row by row."""
    return ((np.arange(h)[:, None] + 1) * (w + 2) + np.arange(w) + 1).reshape(-1)


def pixel_shuffle(a: NDArray) -> NDArray:
    """(h, w, 4c) -> (2h, 2w, c); channel 4k + 2i + j goes to row i and column j of each 2x2 block, as in torch."""
    h, w, c = a.shape
    return a.reshape(h, w, c // 4, 2, 2).transpose(0, 3, 1, 4, 2).reshape(2 * h, 2 * w, c // 4)
