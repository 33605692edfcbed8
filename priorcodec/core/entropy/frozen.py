"""The frozen entropy model: the same bytes give the same symbols everywhere. numpy only, always on the CPU.

    string --rANS--> z symbols --integer h_s--> phi
    for each group of channels, for the anchors of a checkerboard, then the others:
        phi, decoded values around --integer networks--> means, table indices --rANS--> y symbols --> values
Only integer tables out of the weight file and exact float64 sums of integers (`exact.ExactLayer`) lie on this path. Positions are
worked on in strips of any shape, so memory depends neither on the height nor on the width of an image alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.coder import CoderTables, Decoder, Encoder
from priorcodec.core.entropy.exact import CROSS, FRACTION_BITS, LIMIT, ONE, SQUARE, ExactLayer, Taps, pixel_shuffle
from priorcodec.core.entropy.tables import CERTAIN, INDEX_BIAS, INDEX_GAIN, LARGEST_SYMBOL, SCALES, Tables
from priorcodec.core.errors import StreamError

GROUP = 1 << 21  # values rounded at a time: 16 MiB in float64
FORGIVEN_BITS = 64  # of the least length: what a state that starts empty may save


class Place(NamedTuple):
    """One decoding pass of y: a range of channels, and positions of the grid, counted row by row."""

    channels: slice
    at: NDArray[np.intp]


class Planes:
    """What was decoded at every place of y, and with which table: the context of a residual layer.

    Args:
        shape: (m, h, w) of y.

    Attributes:
        symbols: int16 (m, h, w).
        index: uint8 (m, h, w), table indices.
    """

    def __init__(self, shape: tuple[int, int, int]):
        self.symbols, self.index = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)

    def put(self, place: Place, symbols: NDArray[np.int16], index: NDArray[np.uint8]) -> None:
        """One pass of y, (channels, positions) each."""
        for plane, values in (self.symbols, symbols), (self.index, index):
            plane.reshape(len(plane), -1)[place.channels][:, place.at] = values


SymbolsOf: TypeAlias = "Callable[[NDArray[np.int16], NDArray[np.uint8], Place | None], NDArray[np.int16]]"

Write: TypeAlias = "Callable[[NDArray[np.int16], NDArray[np.uint8], CoderTables], None]"


@dataclass(frozen=True, kw_only=True)
class EncodedLatent:
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
        tables: Made by `EntropyModel.tables` and `tables.table_set`, checked by `check_tables`.
        certain: Table indices of y below it mean a zero that is not coded.
    """

    def __init__(self, tables: Tables, certain: int = CERTAIN):
        self.tables = tables
        self.y_coder, self.z_coder = CoderTables(tables, "y", certain), CoderTables(tables, "z")
        self.m_h = tables["h_s.0.weight"].shape[1]
        self._h_s = [_layer(tables, f"h_s.{i}") for i in range(4)]
        self._groups: list[_Group] = []
        while f"anchor.{len(self._groups)}.last.weight" in tables:
            self._groups.append(_Group(tables, len(self._groups), start=self.m))

    @property
    def m(self) -> int:
        """Channels of y."""
        return self._groups[-1].channels.stop if self._groups else 0

    def encode(
        self, y_q: NDArray[np.float32], z: NDArray[np.float32], quality: int, planes: Planes | None = None
    ) -> EncodedLatent:
        """y_q (m, h, w) and z (m_h, h/4, w/4) in quantization steps, quality as in the file -> the string. planes: filled."""
        coder = Encoder()
        y_hat_q, digest = self.quantize(y_q, z, quality, coder.add, planes)
        string, (z_bits, *y_bits) = coder.finish(), coder.bits
        self.check_length(len(string), quality, *z.shape[1:])
        return EncodedLatent(string=string, y_hat_q=y_hat_q, z_bits=z_bits, y_bits=sum(y_bits), symbols_sha256=digest)

    def quantize(
        self,
        y_q: NDArray[np.float32],
        z: NDArray[np.float32],
        quality: int,
        write: Write,
        planes: Planes | None = None,
    ) -> tuple[NDArray[np.float32], str]:
        """`encode` without a string, result as of `walk`; write: takes the symbols, table indices and tables of each pass."""
        flat_y, flat_z = y_q.reshape(self.m, -1), z.reshape(self.m_h, -1)

        def rounded(mean: NDArray[np.int16], index: NDArray[np.uint8], place: Place | None) -> NDArray[np.int16]:
            if place is None:
                symbols = _symbols(flat_z, mean)
            else:
                symbols = _symbols(flat_y[place.channels], mean, place.at)
                symbols[index < self.y_coder.certain] = 0
            write(symbols, index, self.z_coder if place is None else self.y_coder)
            return symbols

        return self.walk(quality, y_q.shape[1], y_q.shape[2], rounded, planes)

    def decode(
        self, string: bytes, quality: int, h: int, w: int, planes: Planes | None = None
    ) -> tuple[NDArray[np.float32], str]:
        """The string and the size of the y grid (multiples of 4) -> y_hat_q (m, h, w) and the symbols' SHA-256. planes: filled.

        Raises:
            StreamError: the string holds impossible symbols, or is too short or too long for an image of that size.
        """
        self.check_length(len(string), quality, h // 4, w // 4)
        decoder = Decoder(string)

        def read(_: NDArray[np.int16], index: NDArray[np.uint8], place: Place | None) -> NDArray[np.int16]:
            return decoder.take(index, self.z_coder if place is None else self.y_coder)

        found = self.walk(quality, h, w, read, planes)
        decoder.finish()
        return found

    def walk(
        self, quality: int, h: int, w: int, symbols_of: SymbolsOf, planes: Planes | None = None
    ) -> tuple[NDArray[np.float32], str]:
        """All passes in the order of coding, for encoder and decoder alike.

        Args:
            quality: as in the file; h, w: size of the y grid, multiples of 4.
            symbols_of: mean, table index (c, positions) and what a pass of y decodes, or None for z -> its symbols.
            planes: Filled with what each pass of y decodes.
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
        positions = [values.positions(first) for first in (True, False)]
        for group in self._groups:
            for networks, at in zip((group.anchor, group.other), positions, strict=True):
                mean, index = networks.parameters(phi, values, at)
                place = Place(group.channels, at)
                symbols = symbols_of(mean, index, place)
                digest.add(symbols)
                if planes is not None:
                    planes.put(place, symbols, index)
                values.put(group.channels, at, symbols, mean)
        return values.y_hat_q, digest.hex()

    def check_length(self, length: int, quality: int, h: int, w: int) -> None:
        """Refuse a string that is too short for its image, so that a small file cannot make us allocate much memory.

        Even the likeliest z symbols cost bits.

        Args:
            length: Of the string, in bytes.
            quality: As in the file.
            h: Rows of the z grid of the padded image.
            w: Columns of that grid.

        Raises:
            StreamError: It is too short.
        """
        bits = self.least_z_bits(quality) * h * w
        # rANS with 32 bits of state and more loses less than 1/256 of them.
        if 8 * length + FORGIVEN_BITS < 0.99 * bits:
            raise StreamError(
                f"the entropy string has {length} bytes, an image of this size needs {int(bits / 8)}: "
                "the file is damaged or forged"
            )

    def least_z_bits(self, quality: int) -> float:
        """Bits that one position of z takes at least."""
        return float(self.z_coder.least_bits[self.tables["z_index"][quality]].sum())

    def _features(
        self, z_symbols: NDArray[np.int16], z_mean: NDArray[np.int16], quality: int, grid: tuple[int, ...]
    ) -> NDArray[np.int16]:
        """Decoded z (m_h, positions) -> phi, int16 (h, w, n)."""
        z_hat = _fixed(z_symbols.astype(np.int32) * ONE + z_mean)
        first, second, third, last = self._h_s
        a = first(np.ascontiguousarray(z_hat.T).reshape(*grid, self.m_h))
        a = np.clip(a.astype(np.int32) + self.tables["quality_bias"][quality], 0, LIMIT).astype(np.int16)
        return last(pixel_shuffle(third(pixel_shuffle(second(a)))))


class _Group:
    """One group of channels: its range, and the networks of its two passes."""

    def __init__(self, tables: Tables, number: int, start: int):
        count = len(tables[f"anchor.{number}.last.weight"]) // 2
        self.channels = slice(start, start + count)
        earlier = [(slice(0, start), SQUARE)] if start else []
        self.anchor = _Pass(tables, f"anchor.{number}", earlier)
        # Of the group itself, only anchors are known.
        self.other = _Pass(tables, f"other.{number}", [*earlier, (self.channels, CROSS)])


class _Pass:
    """The networks of one pass.

    Args:
        tables: Of a weight file.
        name: Of the pass.
        reads: What its context reads; empty for no context.
    """

    def __init__(self, tables: Tables, name: str, reads: Sequence[tuple[slice, Taps]]):
        self.context = _layer(tables, f"{name}.context", relu=False, reads=reads) if reads else None
        self.first, self.last = _layer(tables, f"{name}.first"), _layer(tables, f"{name}.last", relu=False)

    def parameters(
        self, phi: NDArray[np.int16], values: _Values, at: NDArray[np.intp]
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """-> mean (int16, units of 1/ONE) and table index (uint8) of the positions `at`, each (channels, positions)."""
        flat, count = phi.reshape(-1, phi.shape[2]), len(self.last.bias) // 2
        mean, index = np.empty((count, len(at)), np.int16), np.empty((count, len(at)), np.uint8)
        for strip in (self.context or self.first).strips(len(at)):
            here = at[strip]
            a = flat[here].astype(np.float64)
            if self.context is not None:
                context = self.context.product(self.context.gather(values.seen, values.padded(here)))
                a = np.concatenate([a, context], 1)
            out = self.last.product(self.first.product(a))
            mean[:, strip] = out[:, :count].T
            scaled = (out[:, count:].astype(np.int32) * INDEX_GAIN + ONE // 2) >> FRACTION_BITS
            index[:, strip] = np.clip(scaled + INDEX_BIAS, 0, SCALES - 1).T
        return mean, index


def _layer(
    tables: Tables, name: str, *, relu: bool = True, reads: Sequence[tuple[slice, Taps]] | None = None
) -> ExactLayer:
    return ExactLayer(tables[f"{name}.weight"], tables[f"{name}.bias"], relu=relu, reads=reads)


class _Values:
    """The decoded part of y.

    Attributes:
        y_hat_q: float32 (m, h, w), in quantization steps.
        seen: int16 (h + 2, w + 2, m), the same in units of 1/ONE, clamped; zero where nothing is decoded yet, and around.
    """

    def __init__(self, m: int, h: int, w: int):
        self.h, self.w = h, w
        self.y_hat_q = np.zeros((m, self.h, self.w), np.float32)
        self.seen = np.zeros((self.h + 2, self.w + 2, m), np.int16)

    def positions(self, first: bool) -> NDArray[np.intp]:
        """Of one color of the checkerboard, row by row; the first has the corner."""
        odd = (np.arange(self.h)[:, None] + np.arange(self.w)) % 2 == 1
        return np.flatnonzero(odd != first)

    def padded(self, at: NDArray[np.intp]) -> NDArray[np.intp]:
        """The same positions in the grid of `seen`."""
        row, column = np.divmod(at, self.w)
        return (row + 1) * (self.w + 2) + column + 1

    def put(self, channels: slice, at: NDArray[np.intp], symbols: NDArray[np.int16], mean: NDArray[np.int16]) -> None:
        """Decoded values of a range of channels at the positions."""
        flat, seen = self.y_hat_q.reshape(len(self.y_hat_q), -1)[channels], self.seen.reshape(-1, self.seen.shape[2])
        padded = self.padded(at)
        step = max(1, GROUP // len(symbols))
        for start in range(0, len(at), step):
            strip = slice(start, start + step)
            fixed = symbols[:, strip].astype(np.int32) * ONE + mean[:, strip]
            flat[:, at[strip]] = fixed / np.float32(ONE)  # below 2**24: exact
            seen[padded[strip], channels] = _fixed(fixed).T


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
