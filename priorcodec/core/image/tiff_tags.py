"""The tags of a TIFF or EXIF directory (TIFF 6.0, section 2), and their numbers; entries that lie outside the file
are left out and named.

Any number of entries may share their bytes, so a value is unpacked only where it is asked for, and no further.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass

TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # integers
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION = 256, 257, 258, 259, 262, 266, 274
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 277, 278, 279
TILE_OFFSETS, TILE_BYTES = 324, 325
BLACK_IS_ZERO = 1  # a value of PHOTOMETRIC
RAW = 1  # a value of COMPRESSION


@dataclass(frozen=True, kw_only=True, eq=False)
class Tags:
    """A directory whose values are still packed.

    Attributes:
        data: The file.
        order: Byte order, "<" or ">".
        big: Whether the file is a BigTIFF.
        places: Tag -> where its entry starts; only tags that were asked for.
        size: Bytes of the directory, without its values.
        following: Offset of the next directory, 0 if there is none.
        lost: All tags whose values lie outside the data.
    """

    data: bytes
    order: str
    big: bool
    places: dict[int, int]
    size: int
    following: int
    lost: frozenset[int]

    def __contains__(self, tag: int) -> bool:
        return tag in self.places


def directory(data: bytes, at: int, order: str, big: bool, wanted: Container[int]) -> Tags:
    """Read the directory at an offset.

    Args:
        data: The file.
        at: Where the directory starts.
        order: Byte order, "<" or ">".
        big: Whether the file is a BigTIFF.
        wanted: The tags to keep.

    Raises:
        struct.error: It lies outside the data.
    """
    head, entry, link, inline = _layout(order, big)
    count = head.unpack_from(data, at)[0]
    first = at + head.size
    end = first + count * entry.size
    if end > len(data):
        raise struct.error
    places: dict[int, int] = {}
    lost: set[int] = set()
    for place in range(first, end, entry.size):
        tag, kind, number, value = entry.unpack_from(data, place)
        size = SIZES.get(kind, 0) * number
        if size > inline and link.unpack(value)[0] + size > len(data):
            lost.add(tag)
        elif size and tag in wanted:
            places.setdefault(tag, place)
    following = link.unpack_from(data, end)[0] if end + link.size <= len(data) else 0
    return Tags(
        data=data, order=order, big=big, places=places, size=end - at, following=following,
        lost=frozenset(lost - places.keys()),
    )  # fmt: skip


def raw(tags: Tags, tag: int) -> memoryview:
    """The bytes of a tag's value; none if it is missing."""
    return _value(tags, tag)[1]


def numbers(tags: Tags, tag: int, most: int) -> tuple[int, ...]:
    """The first integers of a tag, at most `most`; none if it is missing or of another type."""
    kind, value = _value(tags, tag)
    if kind not in TYPES:
        return ()
    return struct.unpack_from(f"{tags.order}{min(len(value) // SIZES[kind], most)}{TYPES[kind]}", value)


def one(tags: Tags, tag: int, default: int) -> int:
    """The first integer of a tag."""
    return (numbers(tags, tag, 1) or (default,))[0]


def file_of(tags: Tags, kept: Container[int]) -> bytes:
    """The file with a new directory, its first, of only these of the tags."""
    head, entry, link, _ = _layout(tags.order, tags.big)
    places = [place for tag, place in sorted(tags.places.items()) if tag in kept]
    entries = b"".join(tags.data[place : place + entry.size] for place in places)
    start = tags.data[: 8 if tags.big else 4] + link.pack(len(tags.data))
    return b"".join([start, memoryview(tags.data)[len(start) :], head.pack(len(places)), entries, link.pack(0)])


def _value(tags: Tags, tag: int) -> tuple[int, memoryview]:
    """The type of a tag and the bytes of its value; type 0 if it is missing."""
    if tag not in tags.places:
        return 0, memoryview(b"")
    _, entry, link, inline = _layout(tags.order, tags.big)
    place = tags.places[tag]
    _, kind, number, value = entry.unpack_from(tags.data, place)
    size = SIZES[kind] * number
    at = place + entry.size - inline if size <= inline else link.unpack(value)[0]
    return kind, memoryview(tags.data)[at : at + size]


def _layout(order: str, big: bool) -> tuple[struct.Struct, struct.Struct, struct.Struct, int]:
    """How the number of entries, an entry and an offset are packed, and how many bytes of a value an entry holds."""
    head, entry, link = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    return struct.Struct(order + head), struct.Struct(order + entry), struct.Struct(order + link), 8 if big else 4
