"""The .gic file, version 1: what is in it, byte by byte, and how a reader refuses what is not. Imports no torch.

| bytes | field | meaning |
|---|---|---|
| 3 | magic | `GIC` |
| 1 | version | 1 |
| 4 | encoder id | first 32 bits of the SHA-256 of the encoder's weight file, little endian |
| 1 | quality | 0 to 224: level * 32, steps between levels are interpolated |
| 1 | flags | bit 0: segments follow; all other bits are 0 |
| 1 to 5 | H | true height in pixels, varint, at least 1 |
| 1 to 5 | W | true width in pixels, varint, at least 1 |
| 1 to 5 | n | length of the hyper-latent string, varint |
| n | z string | entropy-coded hyper-latent |
| 1 to 5 | m | length of the latent string, varint: *only with flag bit 0* |
| m | y string | entropy-coded latent; without flag bit 0 it ends where the CRC begins |
| ... | segments | *only with flag bit 0*: one or more of type u8, length varint, bytes; they end where the CRC begins |
| 4 | CRC | `zlib.crc32` of everything before it, little endian |

A varint is unsigned LEB128 below 2**32 in its shortest form. A segment type occurs at most once; types from 128 up are
critical: a reader that does not know one refuses the file, while other unknown segments are kept and otherwise ignored.
A plain file has at most 20 bytes besides its two strings as long as both sides and the z string are below 16,384
(pixels, bytes): a one-byte longer varint for each that is not. `pack(unpack(data)) == data` for every readable file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from priorcodec.core.errors import StreamError
from priorcodec.core.statistics import ImageStatistics

MAGIC = b"GIC"
VERSION = 1
SUFFIX = ".gic"
MAX_QUALITY = 224
MAX_PIXELS = 2**26  # 8192x8192; a larger image must be asked for
STATISTICS = 1  # segment type: eight bytes, core.renorm.ImageStatistics
CRITICAL = 0x80
KNOWN_CRITICAL: frozenset[int] = frozenset()

_HEAD = struct.Struct("<3sBIBB")
_SEGMENTS = 0x01
_CRC_BYTES = 4
_VARINT_END = 2**32


@dataclass(frozen=True, kw_only=True)
class Segment:
    """An optional part of a file. type: 0 to 255, from 128 up critical; data: its bytes."""

    type: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Container:
    """Everything a file says. height, width: true size in pixels; quality: 0 to 224; hyper, latent: entropy-coded z, y.

    Raises:
        StreamError: a field is out of its range, or a segment type is critical and unknown or there twice.
    """

    encoder_id: int
    quality: int
    height: int
    width: int
    hyper: bytes
    latent: bytes
    segments: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        _in_range("encoder id", self.encoder_id, 0, 2**32 - 1)
        _in_range("quality", self.quality, 0, MAX_QUALITY)
        _in_range("height", self.height, 1, _VARINT_END - 1)
        _in_range("width", self.width, 1, _VARINT_END - 1)
        types = [segment.type for segment in self.segments]
        for kind in types:
            _in_range("segment type", kind, 0, 255)
            if kind >= CRITICAL and kind not in KNOWN_CRITICAL:
                raise StreamError(f"segment type {kind} is critical and unknown to this version: update priorcodec")
        if len(set(types)) != len(types):
            raise StreamError(f"a segment type occurs twice in {types}, wanted each at most once")

    def segment(self, kind: int) -> bytes | None:
        """The bytes of the segment of this type, or None."""
        return next((segment.data for segment in self.segments if segment.type == kind), None)


def pack(stream: Container) -> bytes:
    """The whole file. Raises StreamError when a string is 2**32 bytes or longer."""
    flags = _SEGMENTS if stream.segments else 0
    parts = [_HEAD.pack(MAGIC, VERSION, stream.encoder_id, stream.quality, flags)]
    parts += [_varint(stream.height), _varint(stream.width), _varint(len(stream.hyper)), stream.hyper]
    if stream.segments:
        parts.append(_varint(len(stream.latent)))
    parts.append(stream.latent)
    for segment in stream.segments:
        parts += [bytes([segment.type]), _varint(len(segment.data)), segment.data]
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def unpack(data: bytes | bytearray | memoryview, *, max_pixels: int = MAX_PIXELS) -> Container:
    """Read a whole file; allocates no more than the file's own length.

    max_pixels: a larger height * width is refused, so that no header makes a decoder allocate without bound.

    Raises:
        StreamError: damaged, not a .gic file, of an unknown version or with an impossible field; always one line.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise StreamError(f"got {type(data).__name__}, wanted the bytes of a {SUFFIX} file")
    data = bytes(data)
    if len(data) < _HEAD.size + _CRC_BYTES or zlib.crc32(data[:-_CRC_BYTES]) != seed(data):
        if data[: len(MAGIC)] != MAGIC:
            raise StreamError(
                f"not a {SUFFIX} file: it begins with {data[:3].hex() or 'nothing'}, wanted {MAGIC.hex()}"
            )
        raise StreamError(
            f"the file is damaged or cut short: its {len(data)} bytes do not match its checksum; get it again"
        )
    magic, version, encoder_id, quality, flags = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise StreamError(f"not a {SUFFIX} file: it begins with {magic.hex()}, wanted {MAGIC.hex()}")
    if version != VERSION:
        raise StreamError(f"file version {version}, but this priorcodec reads version {VERSION}: update priorcodec")
    if flags & ~_SEGMENTS:
        raise StreamError(f"unknown flags {flags:#04x}, wanted 0x00 or 0x01: update priorcodec")
    reader = _Reader(data[:-_CRC_BYTES], _HEAD.size)
    height, width = reader.varint("height"), reader.varint("width")
    if height * width > max_pixels:
        raise StreamError(
            f"the image is {width}x{height}, more than {max_pixels} pixels: raise max_pixels if you trust it"
        )
    hyper = reader.take(reader.varint("z length"), "z string")
    segments = []
    if flags & _SEGMENTS:
        latent = reader.take(reader.varint("y length"), "y string")
        while reader.left or not segments:
            kind = reader.take(1, "segment type")[0]
            segments.append(Segment(type=kind, data=reader.take(reader.varint("segment length"), "segment")))
    else:
        latent = reader.take(reader.left, "y string")
    return Container(
        encoder_id=encoder_id, quality=quality, height=height, width=width,
        hyper=hyper, latent=latent, segments=tuple(segments),
    )  # fmt: skip


def seed(data: bytes) -> int:
    """The file's CRC, 0 to 2**32 - 1: what every sampler's noise is seeded with, so one file gives one image."""
    if len(data) < _CRC_BYTES:
        raise StreamError(f"got {len(data)} bytes, wanted a whole {SUFFIX} file")
    return int.from_bytes(data[-_CRC_BYTES:], "little")


def describe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> dict[str, int | float | str]:
    """Everything a file says without decoding it, for people: sizes in bytes, bpp over the true size. Raises StreamError."""
    stream = unpack(data, max_pixels=max_pixels)
    statistics = stream.segment(STATISTICS)
    return {
        "version": VERSION,
        "encoder": f"{stream.encoder_id:08x}",
        "quality": stream.quality / 32,
        "width": stream.width,
        "height": stream.height,
        "bytes": len(data),
        "bpp": round(8 * len(data) / (stream.width * stream.height), 5),
        "header_bytes": overhead_bytes(stream) - sum(len(segment.data) for segment in stream.segments),
        "hyper_bytes": len(stream.hyper),
        "latent_bytes": len(stream.latent),
        "segments": ", ".join(f"type {s.type}: {len(s.data)} bytes" for s in stream.segments) or "none",
        "statistics": "none" if statistics is None else str(ImageStatistics.unpack(statistics)),
        "crc32": f"{seed(data):08x}",
    }


def overhead_bytes(stream: Container) -> int:
    """Bytes of the file that are neither z string nor y string: header, lengths, segments, CRC."""
    return len(pack(stream)) - len(stream.hyper) - len(stream.latent)


class _Reader:
    """Walks over bytes and never past their end."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, length: int, name: str) -> bytes:
        if length > self.left:
            raise StreamError(
                f"the {name} should have {length} bytes, but only {self.left} are left: the file is damaged"
            )
        self.position += length
        return self.data[self.position - length : self.position]

    def varint(self, name: str) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1, name)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if (shift and not byte) or value >= _VARINT_END:
                    break
                return value
        raise StreamError(f"the {name} is not a varint below 2**32 in its shortest form: the file is damaged")


def _varint(value: int) -> bytes:
    _in_range("length", value, 0, _VARINT_END - 1)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _in_range(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise StreamError(f"{name} is {value!r}, wanted a whole number from {low} to {high}")
