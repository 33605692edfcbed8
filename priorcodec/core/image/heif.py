"""Boxes of AVIF and HEIC files (ISO/IEC 23008-12): color and depth of the primary image, which Pillow does not report."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BOXES = 10_000
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


@dataclass(frozen=True, kw_only=True)
class Properties:
    """Properties of the primary image.

    Attributes:
        cicp: Color primaries and transfer characteristics (H.273), or None if the file does not state them.
        bits: Bits a sample.
    """

    cicp: tuple[int, int] | None = None
    bits: int = 8


def brands(data: bytes) -> set[bytes]:
    """The brands a file claims; empty if it does not start with a file type box."""
    if data[4:8] != b"ftyp":
        return set()
    size = min(struct.unpack(">I", data[:4])[0], len(data), 4096)
    return {data[8:12], *(data[i : i + 4] for i in range(16, size - 3, 4))}


def properties(data: bytes) -> Properties:
    """Color and depth of the primary image; the defaults where the boxes do not state them or are damaged."""
    try:
        return _properties(data)
    except (struct.error, IndexError, StopIteration):
        return Properties()


def _properties(data: bytes) -> Properties:
    meta = next(body for name, body in _boxes(data) if name == b"meta")[4:]
    inside = dict(_boxes(meta))
    item = (
        struct.unpack_from(">I" if inside[b"pitm"][0] else ">H", inside[b"pitm"], 4)[0] if b"pitm" in inside else None
    )
    parts = list(_boxes(inside.get(b"iprp", b"")))
    listed = [box for name, body in parts if name == b"ipco" for box in _boxes(body)]
    own = [i for name, body in parts if name == b"ipma" for i in _associated(body, item)]
    used = [listed[i - 1] for i in own if 0 < i <= len(listed)]
    if not any(name == b"colr" for name, _ in used):  # a grid may leave the color to its tiles
        used += [box for box in listed if box[0] == b"colr"]
    cicp, bits = None, 8
    for name, body in used:
        if name == b"colr" and body[:4] == b"nclx" and cicp is None:
            cicp = struct.unpack_from(">HH", body, 4)
        if name == b"pixi" and body[4]:
            bits = max(body[5 : 5 + body[4]])
        if name == b"av1C" and body[2] & 0x40:
            bits = 12 if body[2] & 0x20 else 10
    return Properties(cicp=cicp, bits=bits)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes lying one behind the other: name and content."""
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(data):
            return
        size, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        size = size or len(data) - at
        if size < head:
            return
        yield name, data[at + head : at + size]
        at += size


def _associated(body: bytes, item: int | None) -> list[int]:
    """Numbers of the properties that an item property association box gives to an item (None: the first one)."""
    version, wide = body[0], body[3] & 1
    count, at = struct.unpack_from(">I", body, 4)[0], 8
    for _ in range(min(count, MAX_BOXES)):
        owner = struct.unpack_from(">I" if version else ">H", body, at)[0]
        at += 4 if version else 2
        number = body[at]
        at += 1
        if wide:
            found = [v & 0x7FFF for v in struct.unpack_from(f">{number}H", body, at)]
        else:
            found = [v & 0x7F for v in body[at : at + number]]
        at += number * (2 if wide else 1)
        if item is None or owner == item:
            return found
    return []
