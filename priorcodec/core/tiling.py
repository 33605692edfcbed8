"""Tiles: a large image worked on in overlapping parts, so that memory stays that of one part.

    0 ---------- own ----------|------- own ------|---------- own ---------- length
    [ read                 margin]
                      [margin  read           margin]            ...
Two ways to put the parts together again:
    `part`   for networks that look only so far: they read as much more and it is cut off. The same values as in one piece.
    `blend`  for networks that see everything (attention, group norm): neighbors fade into each other across the middle half of
             their overlap; weights add up to one (MultiDiffusion, Bar-Tal et al. 2023, eq. 5, with linear ramps).
An image of one tile takes the same path: nothing is cut and every weight is one. Arrays are torch's or numpy's.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

GRID = 64  # pixels: every tile begins and ends on the codec's own grid
SHARE = 0.5  # of a device's memory that one tile's work may fill
_CGROUP = Path("/sys/fs/cgroup/memory.max")

Array: TypeAlias = Any  # a torch.Tensor or a numpy.ndarray


@dataclass(frozen=True, kw_only=True)
class Span:
    """Along one side, in pixels, multiples of `GRID`. start, stop: the tile's own part; low, high: what it reads."""

    start: int
    stop: int
    low: int
    high: int

    def read(self, stride: int) -> slice:
        """What it reads, on a grid of that stride."""
        return slice(self.low // stride, self.high // stride)

    def own(self, stride: int) -> slice:
        """Its own part, on a grid of that stride."""
        return slice(self.start // stride, self.stop // stride)

    def inner(self, stride: int) -> slice:
        """Its own part within what it reads."""
        return slice((self.start - self.low) // stride, (self.stop - self.low) // stride)

    def weight(self, stride: int, like: Array) -> Array:
        """Weight of each position it reads: 1, with a ramp as wide as the margin, centered on the border to a neighbor.

        Args:
            stride: Of the grid, in pixels.
            like: An array of the library, type and device that the result shall have.
        """
        xp = namespace(like)
        at = xp.arange(self.low // stride, self.high // stride, dtype=xp.float32, device=like.device) + 0.5
        weight = xp.ones_like(at)
        for border, margin, sign in ((self.start, self.start - self.low, 1), (self.stop, self.high - self.stop, -1)):
            if margin:
                weight *= (0.5 + sign * (at * stride - border) / margin).clip(0, 1)
        return xp.asarray(weight, dtype=like.dtype)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every row of tiles with every column."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def height(self) -> int:
        return self.rows[-1].stop

    @property
    def width(self) -> int:
        return self.columns[-1].stop

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return ((row, column) for row in self.rows for column in self.columns)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def plan(height: int, width: int, side: int, margin: int) -> Plan:
    """Split an image into tiles of about equal size: an image slightly larger than one tile becomes two of half its size.

    Args:
        height: Of the image in pixels; rounded up to `GRID`.
        width: Likewise.
        side: Longest side of a tile's own part, a multiple of `GRID`; 0 for a single tile.
        margin: What a tile reads beyond its own part toward a neighbor, rounded up to `GRID`; at most the smallest tile.
    """
    return Plan(rows=_spans(_up(height), side, margin), columns=_spans(_up(width), side, margin))


def _spans(length: int, side: int, margin: int) -> tuple[Span, ...]:
    count = math.ceil(length / side) if side else 1
    borders = [i * (length // GRID) // count * GRID for i in range(count + 1)]
    pairs = list(itertools.pairwise(borders))
    # Ramps must not meet, or weights are not one in all.
    margin = min(_up(margin), *(stop - start for start, stop in pairs))
    return tuple(
        Span(start=start, stop=stop, low=max(0, start - margin), high=min(length, stop + margin))
        for start, stop in pairs
    )


def _up(pixels: int) -> int:
    return -(-pixels // GRID) * GRID


def namespace(x: Array) -> ModuleType:
    """The library that an array is of: numpy, or torch, which has functions of the same names."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def automatic(pixel_bytes: float, margin: int, largest: int, device: torch.device | str) -> int:
    """Side of a tile's own part, in pixels: as large as half of the device's memory allows, from 256 up to `largest`.

    All memory counts, not what happens to be free, so that one machine gives the same image twice.

    Args:
        pixel_bytes: What the work on one pixel takes at its peak.
        margin: As for `plan`.
        largest: The largest side.
        device: Where the work is done.
    """
    import torch

    side = math.sqrt(SHARE * memory(torch.device(device)) / pixel_bytes) - 2 * _up(margin)
    return min(largest, max(256, int(side) // 256 * 256))


def memory(device: torch.device) -> int:
    """Bytes of memory that the device has, or that this process may have."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[1]
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if _CGROUP.is_file() and (limit := _CGROUP.read_text().strip()).isdigit():
        found.append(int(limit))
    return min(found, default=8 * 2**30)  # Windows does not say: what a small machine has


def part(f: Callable[[Array], Array], x: Array, at: tuple[Span, Span], halo: int, stride: int) -> Array:
    """Compute one part of `f(x)`, with the same values as in the whole.

    Args:
        f: A network that looks at most `halo` pixels far.
        x: (b, c, h, w), on a grid of `stride` pixels.
        at: Rows and columns of the tile.
        halo: In pixels.
        stride: Of x, in pixels.

    Returns:
        What the tile reads of `f(x)`, on the grid that `f` answers on.
    """
    height, width = x.shape[-2] * stride, x.shape[-1] * stride
    rows, columns = (_reading(span, halo, length) for span, length in zip(at, (height, width), strict=True))
    y = f(x[..., rows.read(stride), columns.read(stride)])
    out = (columns.high - columns.low) // y.shape[-1]
    return y[..., rows.inner(out), columns.inner(out)]


def _reading(span: Span, halo: int, length: int) -> Span:
    """A span whose own part is what `span` reads."""
    low, high = max(0, span.low - _up(halo)), min(length, span.high + _up(halo))
    return Span(start=span.low, stop=span.high, low=low, high=high)


def blend(tiles: Plan, make: Callable[[Span, Span], Sequence[Array]]) -> Iterator[list[Array]]:
    """Fade all tiles into each other; no more than one row of tiles is held at a time.

    Args:
        tiles: Of the image.
        make: What one tile reads -> its maps (b, c, h, w), each on a grid of its own, whose stride divides `GRID`.

    Yields:
        Bands from top to bottom that together are the whole, each with all of its maps.
    """
    above: list[Array] = []
    for i, row in enumerate(tiles.rows):
        bands = _across(tiles, row, make)
        ends = tiles.rows[i + 1].low if i + 1 < len(tiles.rows) else row.high
        done = []
        for k, band in enumerate(bands):
            stride = tiles.width // band.shape[-1]
            if len(tiles.rows) > 1:
                bands[k] = band = band * row.weight(stride, band)[:, None]  # not in place: `make` may keep the array
            if above:
                band[..., : above[k].shape[-2], :] += above[k]
            done.append(band[..., : (ends - row.low) // stride, :])
        above = [band[..., d.shape[-2] :, :] for band, d in zip(bands, done, strict=True)]
        yield done


def _across(tiles: Plan, row: Span, make: Callable[[Span, Span], Sequence[Array]]) -> list[Array]:
    """One row of tiles, faded into each other from left to right."""
    if len(tiles.columns) == 1:
        return list(make(row, tiles.columns[0]))
    bands: list[Array] = []
    for column in tiles.columns:
        maps = make(row, column)
        strides = [(column.high - column.low) // m.shape[-1] for m in maps]
        if not bands:
            bands = [_wide(m, tiles.width // s) for m, s in zip(maps, strides, strict=True)]
        for band, m, stride in zip(bands, maps, strides, strict=True):
            band[..., column.read(stride)] += m * column.weight(stride, m)
    return bands


def _wide(m: Array, width: int) -> Array:
    """Zeros like m, of another width."""
    return namespace(m).zeros((*m.shape[:-1], width), dtype=m.dtype, device=m.device)
