"""The frozen entropy model: the same bytes give the same symbols everywhere. numpy only, always on the CPU.

    string --rANS--> z symbols --integer h_s--> phi --integer nets--> means, table indices --> rANS --> y symbols, in two passes
Only integer tables out of the weight file and exact float64 sums of integers (`exact.ExactLayer`) lie on this path. Positions are
worked on in strips of any shape, so memory depends neither on the height nor on the width of an image alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.coder import CoderTables, Decoder, Encoder
from priorcodec.core.entropy.exact import CROSS, FRACTION_BITS, LIMIT, ONE, ExactLayer, pixel_shuffle
from priorcodec.core.entropy.tables import INDEX_BIAS, INDEX_GAIN, LARGEST_SYMBOL, SCALES, Tables
from priorcodec.core.errors import StreamError

GROUP = 1 << 21  # values rounded at a time: 16 MiB in float64
Positions: TypeAlias = "NDArray[np.intp] | None"
SymbolsOf: TypeAlias = "Callable[[NDArray[np.int16], NDArray[np.uint8], Positions], NDArray[np.int16]]"
FORGIVEN_BITS = 64  # of the least length: what a state that starts empty may save


@dataclass(frozen=True, kw_only=True)
class Coded:
    """One coded image.

    Attributes:
        string: Entropy-coded z and y.
        y_hat_q: Decoded values in quantization steps, float32 (m, h, w).
        z_bits: Bits of z, estimated from the tables.
        y_bits: Bits of y, estimated likewise.
        symbols_sha256: SHA-256 of all symbols as int32.
    """

    string: bytes
    y_hat_q: NDArray[np.float32]
    z_bits: float
    y_bits: float
    symbols_sha256: str


class FrozenEntropyModel:
    """Encodes and decodes symbols exactly.

    Args:
        tables: Made by `EntropyModel.tables` and `gaussian_tables`, checked by `check_tables`.
    """

    def __init__(self, tables: Tables):
        self.tables = tables
        self.coder = CoderTables(tables)
        self.m, self.m_h = tables["context.weight"].shape[1], tables["h_s.0.weight"].shape[1]
        self._h_s = [self._layer(f"h_s.{i}") for i in range(4)]
        self._anchor = [self._layer("anchor.0"), self._layer("anchor.1", relu=False)]
        self._other = [self._layer("other.0"), self._layer("other.1", relu=False)]
        self._context = ExactLayer(tables["context.weight"], tables["context.bias"], relu=False, taps=CROSS)

    def _layer(self, name: str, *, relu: bool = True) -> ExactLayer:
        return ExactLayer(self.tables[f"{name}.weight"], self.tables[f"{name}.bias"], relu=relu)

    def encode(self, y_q: NDArray[np.float32], z: NDArray[np.float32], quality: int) -> Coded:
        """y_q (m, h, w) and z (m_h, h/4, w/4) in quantization steps, quality as in the file -> the string."""
        coder, flat = Encoder(self.coder), (z.reshape(self.m_h, -1), y_q.reshape(self.m, -1))

        def rounded(mean: NDArray[np.int16], index: NDArray[np.uint8], at: Positions) -> NDArray[np.int16]:
            symbols = _symbols(flat[0] if at is None else flat[1], mean, at)
            if at is not None:
                symbols[self.coder.certain[index]] = 0
            coder.add(symbols, index, skip_certain=at is not None)
            return symbols

        y_hat_q, digest = self.walk(quality, y_q.shape[1], y_q.shape[2], rounded)
        string, (z_bits, *y_bits) = coder.finish(), coder.bits
        self.check_length(len(string), quality, *z.shape[1:])
        return Coded(string=string, y_hat_q=y_hat_q, z_bits=z_bits, y_bits=sum(y_bits), symbols_sha256=digest)

    def decode(self, string: bytes, quality: int, h: int, w: int) -> tuple[NDArray[np.float32], str]:
        """The string and the size of the y grid (multiples of 4) -> y_hat_q (m, h, w) and the symbols' SHA-256.

        Raises:
            StreamError: the string holds impossible symbols, or is too short or too long for an image of that size.
        """
        self.check_length(len(string), quality, h // 4, w // 4)
        decoder = Decoder(self.coder, string)
        found = self.walk(quality, h, w, lambda mean, index, at: decoder.take(index, skip_certain=at is not None))
        decoder.finish()
        return found

    def walk(self, quality: int, h: int, w: int, symbols_of: SymbolsOf) -> tuple[NDArray[np.float32], str]:
        """All passes in the order of coding, for encoder and decoder alike.

        Args:
            quality: as in the file; h, w: size of the y grid, multiples of 4.
            symbols_of: mean, table index (c, positions) and the positions of a pass of y, or None for z -> its symbols.
        Returns:
            y_hat_q (m, h, w), decoded values in quantization steps, and the SHA-256 of all symbols.
        """
        digest, grid = _Digest(), (h // 4, w // 4)
        index = np.broadcast_to(self.tables["z_index"][quality][:, None], (self.m_h, grid[0] * grid[1]))
        z_mean = self.tables["z_mean"][quality][:, None]
        z_symbols = symbols_of(z_mean, np.ascontiguousarray(index), None)
        digest.add(z_symbols)
        phi = self._features(z_symbols, z_mean, quality, grid)
        values = _Values(self.m, h, w)
        for first in (True, False):
            at = values.positions(first)
            mean, index = self._parameters(phi, values, at, first)
            symbols = symbols_of(mean, index, at)
            digest.add(symbols)
            values.put(at, symbols, mean, keep=first)
        return values.y_hat_q, digest.hex()

    def check_length(self, length: int, quality: int, h: int, w: int) -> None:
        """Even the likeliest z symbols cost bits: what a header makes us allocate is bounded by the length of its file.

        length: of the string, in bytes; h, w: size of the z grid, which is that of the padded image. Raises StreamError.
        """
        bits = self.least_z_bits(quality) * h * w
        if (
            8 * length + FORGIVEN_BITS < 0.99 * bits
        ):  # rANS with 32 bits of state and more loses less than 1/256 of them
            raise StreamError(
                f"the entropy string has {length} bytes, an image of this size needs {int(bits / 8)}: "
                "the file is damaged or forged"
            )

    def least_z_bits(self, quality: int) -> float:
        """Of one position of z."""
        return float(self.coder.least_bits[self.tables["z_index"][quality]].sum())

    def _features(
        self, z_symbols: NDArray[np.int16], z_mean: NDArray[np.int16], quality: int, grid: tuple[int, ...]
    ) -> NDArray[np.int16]:
        """Decoded z (m_h, positions) -> phi, int16 (h, w, n)."""
        z_hat = _fixed(z_symbols.astype(np.int32) * ONE + z_mean)
        first, second, third, last = self._h_s
        a = first(np.ascontiguousarray(z_hat.T).reshape(*grid, self.m_h))
        a = np.clip(a.astype(np.int32) + self.tables["quality_bias"][quality], 0, LIMIT).astype(np.int16)
        return last(pixel_shuffle(third(pixel_shuffle(second(a)))))

    def _parameters(
        self, phi: NDArray[np.int16], values: _Values, at: NDArray[np.intp], first: bool
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """-> mean (int16, units of 1/ONE) and table index (uint8) of the positions `at`, each (m, positions)."""
        flat = phi.reshape(-1, phi.shape[2])
        mean, index = np.empty((self.m, len(at)), np.int16), np.empty((self.m, len(at)), np.uint8)
        head = self._anchor if first else self._other
        for strip in self._context.strips(len(at)):
            here = at[strip]
            a = flat[here]
            if not first:
                context = self._context.product(self._context.gather(values.context, values.padded(here)))
                a = np.concatenate([a, context], 1)
            out = head[1].product(head[0].product(a.astype(np.float64)).astype(np.float64))
            mean[:, strip] = out[:, : self.m].T
            scaled = (out[:, self.m :].astype(np.int32) * INDEX_GAIN + ONE // 2) >> FRACTION_BITS
            index[:, strip] = np.clip(scaled + INDEX_BIAS, 0, SCALES - 1).T
        return mean, index


class _Values:
    """What is decoded of y.

    Attributes:
        y_hat_q: float32 (m, h, w), in quantization steps.
        context: int16 (h + 2, w + 2, m), the anchors' values in units of 1/ONE, clamped; zero elsewhere.
    """

    def __init__(self, m: int, h: int, w: int):
        self.h, self.w = h, w
        self.y_hat_q = np.zeros((m, self.h, self.w), np.float32)
        self.context = np.zeros((self.h + 2, self.w + 2, m), np.int16)

    def positions(self, first: bool) -> NDArray[np.intp]:
        """Of one color of the checkerboard, row by row; the first has the corner."""
        odd = (np.arange(self.h)[:, None] + np.arange(self.w)) % 2 == 1
        return np.flatnonzero(odd != first)

    def padded(self, at: NDArray[np.intp]) -> NDArray[np.intp]:
        """The same positions in the grid of `context`."""
        row, column = np.divmod(at, self.w)
        return (row + 1) * (self.w + 2) + column + 1

    def put(self, at: NDArray[np.intp], symbols: NDArray[np.int16], mean: NDArray[np.int16], *, keep: bool) -> None:
        """Decoded values at the positions; keep: the other color's context will look at them."""
        flat, seen = self.y_hat_q.reshape(len(symbols), -1), self.context.reshape(-1, len(symbols))
        padded = self.padded(at)
        step = max(1, GROUP // len(symbols))
        for start in range(0, len(at), step):
            strip = slice(start, start + step)
            fixed = symbols[:, strip].astype(np.int32) * ONE + mean[:, strip]
            flat[:, at[strip]] = fixed / np.float32(ONE)  # below 2**24: exact
            if keep:
                seen[padded[strip]] = _fixed(fixed).T


def _symbols(y: NDArray[np.float32], mean: NDArray[np.int16], at: NDArray[np.intp] | None = None) -> NDArray[np.int16]:
    """Nearest integers to y - mean within the codable range. y (c, positions), of which `at` are meant; mean (c, ...)."""
    out = np.empty((len(y), y.shape[1] if at is None else len(at)), np.int16)
    step = max(1, GROUP // max(1, out.shape[1]))
    for start in range(0, len(y), step):
        rows = slice(start, start + step)
        part = (y[rows] if at is None else y[rows][:, at]).astype(np.float64) - mean[rows] / ONE
        out[rows] = np.clip(np.rint(part), -LARGEST_SYMBOL, LARGEST_SYMBOL)
    return out


def _fixed(values: NDArray[np.int32]) -> NDArray[np.int16]:
    return np.clip(values, -LIMIT, LIMIT).astype(np.int16)


class _Digest:
    """SHA-256 of all symbols in the order they are coded, as little-endian int32."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def add(self, symbols: NDArray[np.int16]) -> None:
        for rows in np.array_split(symbols, -(-symbols.size // GROUP) or 1):
            self.sha256.update(rows.astype("<i4").tobytes())

    def hex(self) -> str:
        return self.sha256.hexdigest()
