"""The entropy coder: asymmetric numeral systems (Duda 2013) by `constriction` (Bamler 2022), whole arrays at a time. No torch.

    symbols with table indices, passes in the order of decoding --Encoder--> one string --Decoder--> the same symbols
Frequencies are the integers of the tables, shifted to `CODER_PRECISION` bits. constriction takes probabilities and quantizes
them: its entry i begins at floor(sum of p before i * (2**24 - n) / sum of p) + i. For p = frequency - 1 that sum is 2**24 - n,
the factor exactly 1, and every entry begins at its integer cumulative frequency. All of them are multiples of 2**8, so the
first byte written is always zero and is left out. docs/format.md specifies all of it without constriction.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.tables import LARGEST_SYMBOL, PRECISION, Tables
from priorcodec.core.errors import StreamError

CODER_PRECISION = 24
LENGTH_BITS = 5  # of an escaped symbol's length field
LARGEST_LENGTH = 16  # bits of an escaped distance behind its leading one; the largest is 2 * 65535

_model = constriction.stream.model  # pyright: ignore[reportAttributeAccessIssue]
Ans = constriction.stream.stack.AnsCoder  # pyright: ignore[reportAttributeAccessIssue]
Categorical = _model.Categorical


def to_string(coder: Any) -> bytes:
    """The coder's 32-bit words, little endian, without the first byte, a zero, and the zero bytes at the end."""
    return coder.get_compressed().astype("<u4").tobytes()[1:].rstrip(b"\0")


def from_string(data: bytes) -> Any:
    """A coder that reads what `to_string` gave. Raises StreamError: the string ends with a zero byte, so no encoder wrote it."""
    if data.endswith(b"\0"):
        raise StreamError("the entropy string ends with a zero byte: the file is damaged or forged")
    words = np.frombuffer(b"\0" + data + bytes((-1 - len(data)) % 4), "<u4").astype(np.uint32)
    return Ans(words) if data else Ans()


def categorical(frequencies: NDArray[np.int64]) -> object:
    """Frequencies (n,), each at least 1, that add up to 2**PRECISION -> what the coder takes."""
    scale = 1 << (CODER_PRECISION - PRECISION)
    return Categorical((frequencies * scale - 1).astype(np.float64), perfect=False)


class CoderTables:
    """A set of tables in the coder's own form.

    Args:
        tables: Of a weight file.
        kind: Which set of it, "y" or "z".
        certain: Symbols with a table below it are zero and not coded.

    Attributes:
        least_bits: float (tables,): what a table's likeliest entry costs.
    """

    def __init__(self, tables: Tables, kind: str, certain: int = 0):
        self.kind, self.certain = kind, certain
        lengths = tables[f"{kind}_cdf_length"].astype(np.int64)
        self.offsets = tables[f"{kind}_cdf_offset"].astype(np.int32)
        self.escapes = (lengths - 2).astype(np.int32)
        frequency = np.diff(tables[f"{kind}_cdf"].astype(np.int64), axis=1)
        valid = np.arange(frequency.shape[1]) < lengths[:, None] - 1
        self.bits = np.where(valid, PRECISION - np.log2(np.where(valid, frequency, 1)), 0.0)
        self.least_bits = np.where(valid, self.bits, PRECISION).min(1)
        self.models = [categorical(row[: n - 1]) for row, n in zip(frequency, lengths, strict=True)]

    def order(self, index: NDArray[np.uint8]) -> tuple[NDArray[np.intp], list[tuple[int, slice]]]:
        """Positions (flat) of the symbols that are coded, in the order of coding, and each table's share of them."""
        flat = index.reshape(-1)
        coded = np.flatnonzero(flat >= self.certain)
        tables = flat[coded]
        ends = np.cumsum(np.bincount(tables, minlength=len(self.models))).tolist()
        shares = [(t, slice(start, end)) for t, (start, end) in enumerate(pairwise([0, *ends])) if end > start]
        return coded[np.argsort(tables, kind="stable")], shares


class Encoder:
    """Collects the passes of one image, then writes its string.

    Attributes:
        bits: what the tables say each pass costs, in the order of `add`.
    """

    def __init__(self) -> None:
        self.bits: list[float] = []
        self._parts: list[tuple[NDArray[np.int32], object]] = []

    def add(self, symbols: NDArray[np.int16], index: NDArray[np.uint8], tables: CoderTables) -> None:
        """symbols (any shape), zero where the table is certain; index: their tables."""
        order, shares = tables.order(index)
        flat, distances, bits = symbols.reshape(-1), [], 0.0
        for table, share in shares:
            escape = int(tables.escapes[table])
            entry = flat[order[share]].astype(np.int32) - int(tables.offsets[table])
            outside = (entry < 0) | (entry >= escape)
            beyond = entry[outside]
            distances.append(np.where(beyond < 0, -2 * beyond, 2 * (beyond - escape) + 1))
            entry[outside] = escape
            bits += float(tables.bits[table, entry].sum())
            self._parts.append((entry, tables.models[table]))
        distance = np.concatenate([*distances, np.empty(0, np.int32)])
        if distance.size:
            length = np.frexp(distance.astype(np.float64))[1].astype(np.int32) - 1  # bits below the leading one
            bits += float((LENGTH_BITS + length).sum())
            self._parts.append((length, _model.Uniform(1 << LENGTH_BITS)))
            long = length > 0
            if long.any():
                sizes = (1 << length[long]).astype(np.int32)
                self._parts.append(((distance[long] - sizes).astype(np.int32), sizes))
        self.bits.append(bits)

    def finish(self) -> bytes:
        """The string, in the form of `to_string`."""
        coder = Ans()
        for symbols, model in reversed(self._parts):  # the first symbol to be read is written last
            if isinstance(model, np.ndarray):
                coder.encode_reverse(symbols, _model.Uniform(), model)
            else:
                coder.encode_reverse(symbols, model)
        return to_string(coder)


class Decoder:
    """Reads the passes back, in the same order. Any bytes give symbols or a StreamError.

    Raises:
        StreamError: the string ends with a zero byte, so it was not written by an encoder.
    """

    def __init__(self, data: bytes):
        self._coder = from_string(data)

    def take(self, index: NDArray[np.uint8], tables: CoderTables) -> NDArray[np.int16]:
        """Tables (any shape) -> symbols of that shape. Raises StreamError: an escaped symbol is beyond the range."""
        order, shares = tables.order(index)
        found, escaped = np.empty(len(order), np.int32), []
        for table, share in shares:
            entry = self._coder.decode(tables.models[table], share.stop - share.start)
            found[share] = entry + tables.offsets[table]
            beyond = np.flatnonzero(entry == tables.escapes[table])
            if beyond.size:
                escaped.append((share.start + beyond, np.full(beyond.size, table)))
        if escaped:
            at, table = (np.concatenate(part) for part in zip(*escaped, strict=True))
            found[at] = self._escaped(tables.offsets[table].astype(np.int64), tables.escapes[table].astype(np.int64))
        out = np.zeros(index.size, np.int16)
        out[order] = found
        return out.reshape(index.shape)

    def _escaped(self, offset: NDArray[np.int64], escape: NDArray[np.int64]) -> NDArray[np.int64]:
        length = self._coder.decode(_model.Uniform(1 << LENGTH_BITS), len(offset)).astype(np.int64)
        if length.max() > LARGEST_LENGTH:
            raise StreamError("the entropy string holds an impossible symbol: the file is damaged or forged")
        distance, long = 1 << length, length > 0
        if long.any():
            distance[long] += self._coder.decode(_model.Uniform(), distance[long].astype(np.int32))
        distance -= 1
        below = distance % 2 == 1
        symbol = offset + np.where(below, -(distance + 1) // 2, escape + distance // 2)
        if np.abs(symbol).max() > LARGEST_SYMBOL:
            raise StreamError("the entropy string holds an impossible symbol: the file is damaged or forged")
        return symbol

    def finish(self) -> None:
        """Raises StreamError: the string holds more than the symbols read."""
        if not self._coder.is_empty():
            raise StreamError("the entropy string does not end where its symbols end: the file is damaged or forged")
