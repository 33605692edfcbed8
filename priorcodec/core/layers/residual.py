"""The residual layer: in which half or third of its quantization step a value of the latent lies. numpy only.

    y_q - y_hat_q --sign--> r in {-1, 1}, where the table index is at least `lowest`, inside the areas
                  --times 3, threshold--> r in {-1, 0, 1}, where it is at least `thirds`
    r, with the table index and the size of its symbol --frequencies fitted to counts--> string
    y_hat_q + r / 4 or r / 3, taken for features of a higher quality --any decoder--> image

Halves take away most error per bit where the values of a cell are nearly uniform; thirds take away more, and keep the middle of a
cell, which narrow distributions need (successive refinement, Equitz and Cover 1991). docs/format.md specifies it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from priorcodec.core import shipped
from priorcodec.core.container import MAX_QUALITY, STRIDE
from priorcodec.core.entropy.coder import Ans, categorical, from_string, to_string
from priorcodec.core.entropy.frozen import Planes
from priorcodec.core.entropy.tables import PRECISION, QUALITY_STEPS, SCALES
from priorcodec.core.errors import ConfigError, StreamError

KIND = "priorcodec residual 1"
SHIPPED = shipped.FOLDER / "residual.safetensors"
SIZES = 4  # of symbols: 0, 1, 2, 3 and more
PARTS = 3  # of a step
NO_THIRDS = SCALES  # as `thirds`: halves everywhere
THRESHOLD = 0.6  # thirds; a larger value than one half costs a little quality and saves more rate
FULL = 1 << PRECISION
LEVELS = 10  # of the encoder's setting
HALVES = 8  # up to this level; beyond it, decoders do best when they take the features for those of the highest quality
MOST_AREAS = 255

_HEAD = struct.Struct("<BBBB")
_AREA = struct.Struct("<4H")


@dataclass(frozen=True, kw_only=True)
class Area:
    """A rectangle of positions of y, each 16x16 pixels.

    Attributes:
        row: Topmost row.
        column: Leftmost column.
        rows: Height, at least 1.
        columns: Width, at least 1.
    """

    row: int
    column: int
    rows: int
    columns: int

    @classmethod
    def covering(cls, x: int, y: int, width: int, height: int) -> Area:
        """The smallest one around a rectangle in pixels."""
        row, column = y // STRIDE, x // STRIDE
        return cls(
            row=row, column=column, rows=-(-(y + height) // STRIDE) - row, columns=-(-(x + width) // STRIDE) - column
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The fields at the beginning of the layer.

    Attributes:
        higher: What the decoders' quality byte is above that of the file, up to the encoder's top.
        lowest: Values with a smaller table index are not refined.
        thirds: Values with a smaller table index are refined by halves.
        areas: Where values are refined; empty for everywhere.
    """

    higher: int
    lowest: int
    thirds: int = NO_THIRDS
    areas: tuple[Area, ...] = ()

    def pack(self) -> bytes:
        """As bytes."""
        areas = b"".join(_AREA.pack(a.row, a.column, a.rows, a.columns) for a in self.areas)
        return _HEAD.pack(self.higher, self.lowest, self.thirds, len(self.areas)) + areas

    @classmethod
    def unpack(cls, data: bytes, grid: tuple[int, int]) -> tuple[Settings, bytes]:
        """The fields and the string behind them.

        Args:
            data: Content of the segment.
            grid: Rows and columns of y.

        Raises:
            StreamError: Cut short, or a field is out of range.
        """
        count = data[_HEAD.size - 1] if len(data) >= _HEAD.size else 0
        end = _HEAD.size + count * _AREA.size
        if len(data) < end:
            raise StreamError(f"the residual layer has {len(data)} bytes, wanted at least {end}: the file is damaged")
        higher, lowest, thirds, _ = _HEAD.unpack_from(data)
        areas = tuple(
            Area(row=row, column=column, rows=rows, columns=columns)
            for row, column, rows, columns in _AREA.iter_unpack(data[_HEAD.size : end])
        )
        outside = any(not (0 < a.rows <= grid[0] - a.row and 0 < a.columns <= grid[1] - a.column) for a in areas)
        if lowest >= SCALES or thirds > NO_THIRDS or outside:
            raise StreamError("the residual layer has a field out of range: the file is damaged or forged")
        return cls(higher=higher, lowest=lowest, thirds=thirds, areas=areas), data[end:]


def settings(level: float, areas: tuple[Area, ...] = ()) -> Settings:
    """What an encoder writes.

    Args:
        level: 0 (few values, by halves) to 10 (nearly all, by thirds).
        areas: Where; empty for everywhere.

    Raises:
        ConfigError: An impossible level.
    """
    if not 0 <= level <= LEVELS:
        raise ConfigError(f"the level of the residual layer is {level}, wanted a number from 0 to {LEVELS}")
    higher = 0 if areas or level < HALVES / 2 else QUALITY_STEPS if level <= HALVES else MAX_QUALITY
    lowest, thirds = (
        round(float(np.interp(level, (0, HALVES, 9, LEVELS), to))) for to in ((35, 8, 8, 5), (SCALES, SCALES, 14, 5))
    )
    return Settings(higher=higher, lowest=lowest, thirds=thirds, areas=areas)


class ResidualTables:
    """Frequencies of r by table index and size of the symbol.

    Args:
        path: A weight file.

    Attributes:
        encoder_id: Of the encoder whose symbols were counted.

    Raises:
        WeightsError: Missing or damaged.
    """

    def __init__(self, path: Path):
        with shipped.opened(path, "residual tables") as (file, _):
            metadata, frequency = file.metadata() or {}, file.get_tensor("frequency").astype(np.int64)
            if metadata.get("kind") != KIND:
                raise ValueError(f"it is {metadata.get('kind')!r}, wanted {KIND!r}")
            if frequency.shape != (SCALES, SIZES, 3) or frequency.min() < 1 or (frequency.sum(2) != FULL).any():
                raise ValueError("its frequencies do not add up")
            self.encoder_id = int(metadata["encoder_id"], 16)
        rows = frequency.reshape(-1, 3)
        low = rows[:, 0] + rows[:, 1] // 2
        self._thirds, self._halves = (
            list(map(categorical, rows)),
            list(map(categorical, np.stack([low, FULL - low], 1))),
        )

    def write(
        self, y_q: NDArray[np.float32], y_hat_q: NDArray[np.float32], planes: Planes, settings: Settings
    ) -> bytes:
        """The layer of y_q (m, h, w), which was decoded to y_hat_q, both in quantization steps."""
        at, shares = _order(planes, settings)
        left = (y_q.reshape(-1)[at].astype(np.float64) - y_hat_q.reshape(-1)[at]) * _sign(planes, at)
        third = (np.sign(left) * (np.abs(left) * PARTS > THRESHOLD)).astype(np.int32) + 1
        half = (left >= 0).astype(np.int32)
        coder = Ans()
        for table, share in reversed(shares):  # the first to be read is written last
            models, entries = (self._thirds, third) if _by_thirds(table, settings) else (self._halves, half)
            coder.encode_reverse(entries[share], models[table])
        return settings.pack() + to_string(coder)

    def refine(self, string: bytes, y_hat_q: NDArray[np.float32], planes: Planes, settings: Settings) -> None:
        """Add what the string says to y_hat_q (m, h, w), in place. Raises StreamError: it is damaged."""
        at, shares = _order(planes, settings)
        coder, shift = from_string(string), np.empty(len(at), np.float32)
        for table, share in shares:
            count = share.stop - share.start
            if _by_thirds(table, settings):
                shift[share] = (coder.decode(self._thirds[table], count) - 1).astype(np.float32) / np.float32(PARTS)
            else:
                shift[share] = (2 * coder.decode(self._halves[table], count) - 1) / np.float32(4)
        if not coder.is_empty():
            raise StreamError("the residual layer does not end where its values end: the file is damaged or forged")
        y_hat_q.reshape(-1)[at] += shift * _sign(planes, at).astype(np.float32)


def counts(y_q: NDArray[np.float32], y_hat_q: NDArray[np.float32], planes: Planes) -> NDArray[np.int64]:
    """The thirds of all values, counted: (SCALES, SIZES, 3). To fit the frequencies; those of halves follow from them."""
    left = (y_q.astype(np.float64) - y_hat_q) * PARTS
    sign = np.where(planes.symbols < 0, -1, 1)
    r = (np.sign(left) * (np.abs(left) > THRESHOLD)).astype(np.int64) * sign + 1
    return np.bincount((_table(planes).astype(np.intp) * 3 + r).reshape(-1), minlength=SCALES * SIZES * 3).reshape(
        SCALES, SIZES, 3
    )


def fitted(counted: NDArray[np.int64]) -> NDArray[np.int32]:
    """Counts (SCALES, SIZES, 3) -> frequencies that add up to FULL, each at least 1; zero symbols symmetric."""
    smooth = counted + np.array([1.0, 8.0, 1.0])
    smooth[:, 0] = (smooth[:, 0] + smooth[:, 0, ::-1]) / 2
    frequency = np.maximum(1, np.floor(smooth / smooth.sum(2, keepdims=True) * FULL)).astype(np.int32)
    largest = frequency.argmax(2)[..., None]
    rest = FULL - frequency.sum(2, keepdims=True) + frequency.max(2, keepdims=True)
    np.put_along_axis(frequency, largest, rest, 2)
    return frequency


def _by_thirds(table: int, settings: Settings) -> bool:
    return table >= SIZES * settings.thirds


def _table(planes: Planes) -> NDArray[np.uint8]:
    """Table index and size of the symbol as one number, 0 to 255."""
    return planes.index * np.uint8(SIZES) + np.minimum(np.abs(planes.symbols), SIZES - 1).astype(np.uint8)


def _sign(planes: Planes, at: NDArray[np.intp]) -> NDArray[np.int32]:
    return np.where(planes.symbols.reshape(-1)[at] < 0, -1, 1).astype(np.int32)


def _order(planes: Planes, settings: Settings) -> tuple[NDArray[np.intp], Sequence[tuple[int, slice]]]:
    """Positions of the refined values in the order of coding: table by table; and the share of each table."""
    chosen = planes.index >= settings.lowest
    if settings.areas:
        inside = np.zeros(chosen.shape[1:], bool)
        for a in settings.areas:
            inside[a.row : a.row + a.rows, a.column : a.column + a.columns] = True
        chosen &= inside
    at = np.flatnonzero(chosen)
    tables = _table(planes).reshape(-1)[at]
    return at[np.argsort(tables, kind="stable")], list(_shares(np.bincount(tables, minlength=SCALES * SIZES)))


def _shares(sizes: NDArray[np.intp]) -> Iterator[tuple[int, slice]]:
    end = 0
    for table, size in enumerate(sizes.tolist()):
        if size:
            yield table, slice(end, end + size)
        end += size
