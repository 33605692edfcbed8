"""Reads and writes the .gic file format, version 2. Imports no torch.

| bytes | field | meaning |
|---|---|---|
| 3 | magic | `GIC` |
| 1 | version, flags | low four bits: 2; bit 4: the file has segments; bits 5 to 7: 0 |
| 1 | encoder | low byte of the encoder id |
| 1 | quality | 0 to 176: level * 16, steps between levels are interpolated |
| 1 to 3 | H | true height in pixels, varint, 1 to 65,535 |
| 1 to 3 | W | true width in pixels, varint, 1 to 65,535 |
| ... | string | entropy-coded z and y, up to the last check: *a file without segments* |
| ... | segments | *a file with segments*: one or more of type u8, length varint, bytes, check |
| 4 | check | (`zlib.crc32` of everything before it) XOR (encoder id), little endian |

Each segment ends with a check of everything before it, and the last one's is that of the file. So a file that is cut behind any
of its segments is a valid file: an image of lower quality. Types rise; the entropy string is the segment `LATENT`.

The encoder id is the first 32 bits of the SHA-256 of the encoder's weight file, little endian. It takes no bytes of its own: the
check of an undamaged file gives it back, and its low byte must be the one of the header. A varint is unsigned LEB128 in its
shortest form. Types from 128 up are critical: a reader that does not know one refuses the file, while other unknown segments are
kept and otherwise ignored. A file without segments of 768x512 has 14 bytes besides its string. `pack(unpack(data)) == data` for
every readable file, except one that was cut down to its latent: it is written without segments. docs/format.md is the whole
specification.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.errors import ConfigError, StreamError
from priorcodec.core.statistics import ImageStatistics

MAGIC = b"GIC"
VERSION = 2
SUFFIX = ".gic"
MAX_QUALITY = 176
MAX_SIDE = 65_535  # pixels
MAX_PIXELS = 2**26  # of the padded image, 8192x8192; a larger one must be asked for
STRIDE = 16  # pixels to a position of the latent
HYPER_STRIDE = 64  # and to one of the hyper-latent: both sides are padded to a multiple of it
STATISTICS = 1  # segment type: eight bytes, core.statistics.ImageStatistics
STRUCTURE, TEXTURE = 16, 17  # the semantic layer
LATENT = 32  # the entropy string of z and y
RESIDUAL = 48  # core.layers.residual
LAYERS = {"semantic": (STRUCTURE, TEXTURE), "latent": (LATENT,), "residual": (RESIDUAL,)}
NAMES = {STATISTICS: "statistics", STRUCTURE: "structure", TEXTURE: "texture", RESIDUAL: "residual"}
CRITICAL = 0x80

_HEAD = struct.Struct("<3sBBB")
HEAD_BYTES = _HEAD.size + 6
"""Length of the longest header; with it, `peek` reads any file."""
_SEGMENTS = 0x10
_CHECK_BYTES = 4
_VARINT_END = 2**32


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a file.

    Attributes:
        type: 0 to 255; types from 128 up are critical.
        data: Content of the segment.
    """

    type: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Container:
    """The content of a file.

    Attributes:
        encoder_id: First 32 bits of the SHA-256 of the encoder's weight file.
        quality: 0 to 176, in steps of 1/16 level.
        height: True height in pixels, 1 to 65,535.
        width: True width in pixels, 1 to 65,535.
        string: Entropy-coded z and y; None for a file without a latent.
        segments: All other parts, their types rising.
        seed: The check behind the entropy string, or without one the last check: what noise is seeded with. None before the
            content is packed. Segments behind the latent do not change it.

    Raises:
        StreamError: A field is out of range, segment types do not rise, one is unknown and critical, or there is nothing.
    """

    encoder_id: int
    quality: int
    height: int
    width: int
    string: bytes | None
    segments: tuple[Segment, ...] = ()
    seed: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _in_range("encoder id", self.encoder_id, 0, 2**32 - 1)
        _in_range("quality", self.quality, 0, MAX_QUALITY)
        _in_range("height", self.height, 1, MAX_SIDE)
        _in_range("width", self.width, 1, MAX_SIDE)
        types = [segment.type for segment in self.segments]
        for kind in types:
            _in_range("segment type", kind, 0, 255)
            if kind >= CRITICAL:
                raise StreamError(f"segment type {kind} is critical and unknown to this version: update priorcodec")
        if LATENT in types or any(second <= first for first, second in pairwise(types)):
            raise StreamError(f"segment types are {types}, wanted rising ones: the file is damaged or forged")
        if self.string is None and not types:
            raise StreamError("the file has neither an entropy string nor a segment: it is damaged or forged")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers in the file, of `LAYERS`, in their order."""
        types = {segment.type for segment in self.segments} | ({LATENT} if self.string is not None else set())
        return tuple(name for name, kinds in LAYERS.items() if types.intersection(kinds))

    def only(self, layers: Collection[str]) -> Container:
        """The same content without the layers that are not named; segments of no layer stay. Raises StreamError: none is left."""
        missing = [name for name in layers if name not in self.layers]
        if missing:
            raise StreamError(f"the file has no {missing[0]} layer: it has {', '.join(self.layers) or 'none'}")
        dropped = {kind for name, kinds in LAYERS.items() if name not in layers for kind in kinds}
        segments = tuple(segment for segment in self.segments if segment.type not in dropped)
        return replace(self, string=None if LATENT in dropped else self.string, segments=segments)

    def segment(self, kind: int) -> bytes | None:
        """The bytes of the segment of this type, or None."""
        return next((segment.data for segment in self.segments if segment.type == kind), None)


def padded(height: int, width: int) -> tuple[int, int]:
    """Height and width of the coded image: both rounded up to multiples of 64."""
    return -(-height // HYPER_STRIDE) * HYPER_STRIDE, -(-width // HYPER_STRIDE) * HYPER_STRIDE


def pack(content: Container) -> bytes:
    """Write a file. Raises StreamError: a string or segment has 2**32 bytes or more."""
    flags = _SEGMENTS if content.segments else 0
    data = _HEAD.pack(MAGIC, VERSION | flags, content.encoder_id & 0xFF, content.quality)
    data += _varint(content.height) + _varint(content.width)
    if content.segments:
        latent = [] if content.string is None else [Segment(type=LATENT, data=content.string)]
        for part in sorted([*content.segments, *latent], key=lambda part: part.type):
            data += bytes([part.type]) + _varint(len(part.data)) + part.data
            data += _check(data, content.encoder_id)
    else:
        assert content.string is not None  # `Container` has one of the two
        data += content.string
        data += _check(data, content.encoder_id)
    return data


def unpack(
    data: bytes | bytearray | memoryview, *, max_pixels: int = MAX_PIXELS, layers: Collection[str] | None = None
) -> Container:
    """Read a file; allocates no more than a few times the file's own length.

    A damaged file is refused here with probability 255/256. Otherwise it shows another encoder's id, which the decoder compares
    with its own: one damaged file in 2**32 passes both checks.

    Args:
        data: The file.
        max_pixels: A larger padded image is refused, so that a header cannot make a decoder allocate without bound.
        layers: Names of `LAYERS` to read; None for all. What follows the last of them is not looked at, so that it may be cut
            short or damaged; a named layer that the file does not have is an error.

    Raises:
        StreamError: The file is damaged, not a .gic file, of an unknown version, or has an impossible field.
        ConfigError: No layer is named, or one that does not exist.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise StreamError(f"got {type(data).__name__}, wanted the bytes of a {SUFFIX} file")
    data = bytes(data)
    _check_kind(data)
    if layers is not None:
        check_names(layers)
        data, damaged = _cut(data, layers)
    encoder_id = zlib.crc32(data[:-_CHECK_BYTES]) ^ int.from_bytes(data[-_CHECK_BYTES:], "little")
    if len(data) < _HEAD.size + _CHECK_BYTES or encoder_id & 0xFF != data[4]:
        whole = _undamaged(data) if layers is None else ()
        advice = f"get it again, or decode what is whole: layers {','.join(whole)}" if whole else "get it again"
        raise StreamError(
            f"the file is damaged or cut short: its {len(data)} bytes do not match its checksum; {advice}"
        )
    _, head, _, quality = _HEAD.unpack_from(data)
    if head & ~_SEGMENTS != VERSION:
        raise StreamError(f"unknown flags {head & ~0x0F:#04x}, wanted 0x00 or 0x10: update priorcodec")
    reader = _Reader(data if head & _SEGMENTS else data[:-_CHECK_BYTES], _HEAD.size)
    height, width = reader.varint("height"), reader.varint("width")
    check_size(height, width, max_pixels)
    check = int.from_bytes(data[-_CHECK_BYTES:], "little")
    string, seed, parts = None, check, []
    if not head & _SEGMENTS:
        string = reader.take(reader.left, "entropy string")
    for part, own_id, own_check, _ in _walk(reader) if head & _SEGMENTS else ():
        if own_id != encoder_id:
            raise StreamError(f"the check of segment type {part.type} does not match: the file is damaged or forged")
        if parts and part.type <= parts[-1].type:
            raise StreamError(
                f"segment type {part.type} follows {parts[-1].type}, wanted rising types: the file is damaged or forged"
            )
        parts.append(part)
        if part.type == LATENT:
            string, seed = part.data, own_check
    content = Container(
        encoder_id=encoder_id, quality=quality, height=height, width=width, string=string,
        segments=tuple(part for part in parts if part.type != LATENT), seed=seed,
    )  # fmt: skip
    if layers is None:
        return content
    if damaged and (missing := [name for name in layers if name not in content.layers]):
        whole = ", ".join(content.layers) or "nothing"
        raise StreamError(
            f"the {missing[0]} layer is damaged, cut short or missing: get the file again (whole is {whole})"
        )
    return content.only(layers)


def peek(data: bytes) -> tuple[int, int, int]:
    """The first `HEAD_BYTES` of a file -> its quality byte, height and width. Nothing else is checked. Raises StreamError."""
    _check_kind(data)
    if len(data) < _HEAD.size:
        raise StreamError(f"the file is cut short: it has {len(data)} bytes")
    reader = _Reader(data, _HEAD.size)
    height, width = reader.varint("height"), reader.varint("width")
    _check_sides(height, width)
    return data[_HEAD.size - 1], height, width


def check_names(layers: Collection[str]) -> None:
    """Raises ConfigError: none is named, or one does not exist."""
    wanted = f"wanted a list of {', '.join(LAYERS)}"
    if isinstance(layers, str) or not isinstance(layers, Collection):
        raise ConfigError(f"layers are {layers!r}, {wanted}")
    if not layers:
        raise ConfigError(f"no layers are named, {wanted}")
    if unknown := [str(name) for name in layers if name not in LAYERS]:
        raise ConfigError(f"layers are {', '.join(unknown)!r}, {wanted}")


def _check_sides(height: int, width: int) -> None:
    _in_range("height", height, 1, MAX_SIDE)
    _in_range("width", width, 1, MAX_SIDE)


def _check_kind(data: bytes) -> None:
    """Raises StreamError: not a .gic file, or of another version."""
    if data[: len(MAGIC)] != MAGIC:
        raise StreamError(f"not a {SUFFIX} file: it begins with {data[:3].hex() or 'nothing'}, wanted {MAGIC.hex()}")
    version = data[3] & 0x0F if len(data) > 3 else VERSION
    if version != VERSION:
        advice = "encode the image again" if version < VERSION else "update priorcodec"
        raise StreamError(f"file version {version}, but this priorcodec reads version {VERSION}: {advice}")


def _walk(reader: _Reader) -> Iterator[tuple[Segment, int, int, int]]:
    """The segments ahead, each with the encoder id by its check, the check, and where it ends. Raises StreamError: cut short."""
    done, crc = 0, 0
    while reader.left or not done:
        kind = reader.take(1, "segment type")[0]
        part = Segment(type=kind, data=reader.take(reader.varint("segment length"), "segment"))
        crc, done = zlib.crc32(reader.data[done : reader.position], crc), reader.position
        check = int.from_bytes(reader.take(_CHECK_BYTES, "check of a segment"), "little")
        yield part, crc ^ check, check, reader.position


def _cut(data: bytes, layers: Collection[str]) -> tuple[bytes, bool]:
    """A file -> its beginning up to the last of the named layers, as far as it is undamaged, and whether damage ended it.

    Without segments it is the whole file.
    """
    last, end = max(kind for name in layers for kind in LAYERS[name]), len(data)
    if len(data) <= _HEAD.size or not data[3] & _SEGMENTS:
        return data, False
    reader = _Reader(data, _HEAD.size)
    try:
        reader.varint("height")
        reader.varint("width")
        for part, own_id, _, behind in _walk(reader):
            if own_id & 0xFF != data[4]:
                return data[:end], True
            if part.type > last:
                break
            end = behind
    except StreamError:
        return data[:end], True
    return data[:end], False


def _undamaged(data: bytes) -> tuple[str, ...]:
    """Names of the layers in the part of a damaged file that is whole and an image by itself; () if there is none."""
    for names in (("semantic", "latent"), ("latent",), ("semantic",)):
        with suppress(StreamError):
            found = unpack(data, layers=names)
            if found.string is not None or any(part.type == TEXTURE for part in found.segments):
                return found.layers
    return ()


def check_size(height: int, width: int, max_pixels: int = MAX_PIXELS) -> None:
    """Check a size. Raises StreamError: a side exceeds the format, or the padded image has more than `max_pixels` pixels."""
    _check_sides(height, width)
    rows, columns = padded(height, width)
    if rows * columns > max_pixels:
        raise StreamError(
            f"the image is {width}x{height}, with its padding {columns}x{rows}, more than {max_pixels} pixels: "
            "raise max_pixels if you trust it"
        )


def describe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> dict[str, int | float | str]:
    """Describe a file for display, without decoding it: sizes in bytes, bpp of the true size. Raises StreamError."""
    content = unpack(data, max_pixels=max_pixels)
    statistics = content.segment(STATISTICS)
    return {
        "version": VERSION,
        "encoder": f"{content.encoder_id:08x}",
        "quality": content.quality / QUALITY_STEPS,
        "width": content.width,
        "height": content.height,
        "bytes": len(data),
        "bpp": round(8 * len(data) / (content.width * content.height), 5),
        "header_bytes": overhead_bytes(content) - sum(len(segment.data) for segment in content.segments),
        "layers": ", ".join(content.layers) or "none",
        "string_bytes": len(content.string or b""),
        "segments": ", ".join(
            f"{NAMES.get(part.type, f'type {part.type}')} {len(part.data)} bytes" for part in content.segments
        )
        or "none",
        "statistics": "none" if statistics is None else str(ImageStatistics.unpack(statistics)),
        "check": f"{int.from_bytes(data[-_CHECK_BYTES:], 'little'):08x}",
    }


def overhead_bytes(content: Container) -> int:
    """Bytes of the file apart from the entropy string: header, lengths, segments, checks."""
    return len(pack(content)) - len(content.string or b"")


def _check(data: bytes, encoder_id: int) -> bytes:
    return (zlib.crc32(data) ^ encoder_id).to_bytes(_CHECK_BYTES, "little")


class _Reader:
    """Reads fields from bytes, never past the end."""

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
