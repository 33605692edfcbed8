"""The tags of a TIFF or EXIF directory (TIFF 6.0, section 2), and their numbers; entries that lie outside the file
are left out and named."""

from __future__ import annotations

import struct

Tags = dict[int, "tuple[int, ...] | bytes"]  # integers as tuples, anything else as bytes
TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # integers
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION = 256, 257, 258, 259, 262, 266, 274
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 277, 278, 279
TILE_OFFSETS, TILE_BYTES = 324, 325
BLACK_IS_ZERO = 1  # a value of PHOTOMETRIC
RAW = 1  # a value of COMPRESSION


def directory(data: bytes, at: int, order: str, big: bool) -> tuple[Tags, int, frozenset[int]]:
    """Read the directory at an offset.

    Args:
        data: The file.
        at: Where the directory starts.
        order: Byte order, "<" or ">".
        big: Whether the file is a BigTIFF.

    Returns:
        Its tags; the offset of the next directory, 0 if there is none; the tags whose values lie outside the data.

    Raises:
        struct.error: It lies outside the data.
    """
    head, entry, link = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    count = struct.unpack_from(order + head, data, at)[0]
    at += struct.calcsize(order + head)
    step, inline = struct.calcsize("<" + entry), 8 if big else 4
    if at + count * step > len(data):
        raise struct.error
    tags: Tags = {}
    lost: set[int] = set()
    for i in range(count):
        tag, kind, number, value = struct.unpack_from(order + entry, data, at + i * step)
        size = SIZES.get(kind, 0) * number
        if not size:
            continue
        if size > inline:
            offset = struct.unpack(order + link, value)[0]
            value = data[offset : offset + size]
        if len(value) < size:
            lost.add(tag)
        elif tag not in tags:
            value = value[:size]
            tags[tag] = struct.unpack(f"{order}{number}{TYPES[kind]}", value) if kind in TYPES else value
    try:
        return tags, struct.unpack_from(order + link, data, at + count * step)[0], frozenset(lost - tags.keys())
    except struct.error:
        return tags, 0, frozenset(lost - tags.keys())


def numbers(tags: Tags, tag: int) -> tuple[int, ...]:
    """The integers of a tag; none if it is missing or of another type."""
    value = tags.get(tag, ())
    return () if isinstance(value, bytes) else value


def one(tags: Tags, tag: int, default: int) -> int:
    """The first integer of a tag."""
    return (numbers(tags, tag) or (default,))[0]
