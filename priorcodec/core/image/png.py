"""PNG (third edition, W3C 2025) -> samples: chunks are read here, the image data by Pillow.

Only the chunks that decide pixels reach Pillow: text of any size can neither change them nor make the file unreadable.
Checksums are verified, transparency is compared at full depth, and 16 bits a sample are kept.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import PngImagePlugin

from priorcodec.core.errors import ImageError
from priorcodec.core.image import colorspace, exif
from priorcodec.core.image.colorspace import Chromaticities, RgbSpace
from priorcodec.core.image.raster import DAMAGED, Raster, check_size, to_8_bit

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
USED = {b"tRNS", b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM", b"eXIf", b"acTL", b"fcTL"}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
LAST = 2**15  # bytes that Pillow gets last: row data and zlib's checksum together, or it stops before it checks
STEP = 2**10  # bytes unpacked at a time, to a thousand times as many at most
MAX_PROFILE = 2**24  # bytes; the largest printer profiles have a few million


@dataclass
class _Chunks:
    """What the walk over a file's chunks found: first of each kind, and all image data."""

    first: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    animated_default: bool = False
    notes: list[str] = field(default_factory=list)


def decode(data: bytes, max_pixels: int) -> Raster:
    """Read a PNG's still image.

    Args:
        data: The file.
        max_pixels: A larger image is refused before its pixels are decoded.

    Raises:
        ImageError: Damaged, cut short, or too large.
    """
    chunks = _walk(data)
    if b"IHDR" not in chunks.first or len(chunks.first[b"IHDR"]) != 13:
        raise ImageError("damaged, cut short or not supported (no image header)")
    width, height, depth, kind, *_, interlaced = struct.unpack(">IIBBBBB", chunks.first[b"IHDR"])
    if depth not in DEPTHS.get(kind, ()) or interlaced > 1:
        raise ImageError(f"damaged, cut short or not supported (color type {kind} with {depth} bits a sample)")
    check_size(width, height, max_pixels)
    notes = chunks.notes
    if b"acTL" in chunks.first and len(chunks.first[b"acTL"]) >= 4:
        frames = struct.unpack(">I", chunks.first[b"acTL"][:4])[0] + chunks.animated_default
        if frames > 1:
            notes.insert(0, f"only one of {frames} frames or pages")
    samples = _samples(chunks, width, height, depth, kind)
    if (interlaced or not samples[-1].any()) and _too_short(chunks, width, height, depth * CHANNELS[kind], interlaced):
        notes.append(f"{DAMAGED}: the image data ends early, parts of the image are black")
    trns = chunks.first.get(b"tRNS")
    model: Literal["gray", "rgb"] = "gray" if kind in (0, 4) else "rgb"
    alpha = None
    if kind in (4, 6):
        samples, alpha = samples[..., :-1], to_8_bit(samples[..., -1])
    elif kind == 3:
        samples, alpha = _through_palette(samples[..., 0], chunks.first.get(b"PLTE", b""), trns, notes)
    elif trns is not None and len(trns) >= 2 * CHANNELS[kind]:
        alpha = _color_key(samples, np.frombuffer(trns, ">u2", CHANNELS[kind]), depth)
    icc, space = _color(chunks.first, notes)
    return Raster(
        samples=samples,
        model=model,
        alpha=alpha,
        bits=depth,
        icc=icc,
        space=space,
        orientation=exif.orientation(chunks.first.get(b"eXIf", b""), notes),
        notes=tuple(notes),
    )


def text(data: bytes, keyword: str) -> str:
    """The tEXt chunk with this keyword of a PNG whose checksums hold; empty if there is none or the file is damaged."""
    found, at = "", len(SIGNATURE)
    if not data.startswith(SIGNATURE):
        return ""
    while at < len(data):
        if at + 12 > len(data):
            return ""
        size, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if len(body) < size or data[at + 8 + size : at + 12 + size] != struct.pack(">I", zlib.crc32(name + body)):
            return ""
        if name == b"tEXt" and body.startswith(keyword.encode("latin-1") + b"\0"):
            found = body[len(keyword) + 1 :].decode("latin-1")
        if name == b"IEND":
            return found
        at += 12 + size
    return ""


def _walk(data: bytes) -> _Chunks:
    """Collect the chunks up to IEND; a damaged ancillary one is left out with a note, damaged image data is kept."""
    chunks, view, at = _Chunks(), memoryview(data), len(SIGNATURE)
    while True:
        if at + 8 > len(data):
            chunks.notes.append(f"{DAMAGED}: the file ends early")
            break
        size, name = struct.unpack_from(">I4s", data, at)
        if not name.isalpha():
            chunks.notes.append(f"{DAMAGED}: no chunk at byte {at}, the rest is ignored")
            break
        body = view[at + 8 : at + 8 + size]
        check = data[at + 8 + size : at + 12 + size]
        at += 12 + size
        if name == b"IEND":
            break
        if name not in CRITICAL and name not in USED:
            if not name[0] & 32:
                raise ImageError(f"damaged, cut short or not supported (unknown critical chunk {name.decode()})")
            continue
        if check != struct.pack(">I", zlib.crc32(body, zlib.crc32(name))):
            if name == b"IHDR":
                raise ImageError("damaged, cut short or not supported (the image header fails its checksum)")
            what = f"the {name.decode()} chunk fails its checksum"
            critical = name in CRITICAL
            note = f"{DAMAGED}: {what}, parts of the image may be wrong" if critical else f"{what}: it is ignored"
            if note not in chunks.notes:
                chunks.notes.append(note)
            if not critical:
                continue
        if name == b"IDAT":
            if not chunks.data and b"acTL" in chunks.first:
                chunks.animated_default = b"fcTL" not in chunks.first  # the still image is no frame of the animation
            chunks.data += body
        else:
            chunks.first.setdefault(name, bytes(body))
    return chunks


def _samples(chunks: _Chunks, width: int, height: int, depth: int, kind: int) -> np.ndarray:
    """-> (h, w, c): uint8 (fewer than 8 bits scaled up, but palette indices as they are) or uint16."""
    header = chunks.first[b"IHDR"]
    if depth < 16:
        rows = _decoded(header, chunks, None)
    elif kind == 0:
        rows = _decoded(header, chunks, None).astype(np.uint16)
    elif kind == 4:  # as bytes, gray and alpha of 16 bits look like four channels of 8
        rows = _decoded(header[:8] + bytes([8, 6]) + header[10:], chunks, None)
        rows = np.ascontiguousarray(rows).view(">u2").astype(np.uint16)
    else:  # Pillow takes one byte of each sample: the first, or the second by the name of the other byte order
        name = "RGB" if kind == 2 else "RGBA"
        rows = _decoded(header, chunks, f"{name};16B").astype(np.uint16) << 8
        rows |= _decoded(header, chunks, f"{name};16L")
    return rows.reshape(height, width, -1)


def _decoded(header: bytes, chunks: _Chunks, raw_mode: str | None) -> np.ndarray:
    """Pillow's array of a PNG made of the chunks that carry pixels; `raw_mode` says how it takes samples apart."""
    parts: list[tuple[bytes, bytes | memoryview]] = [(b"IHDR", header)]
    if b"PLTE" in chunks.first:
        parts.append((b"PLTE", chunks.first[b"PLTE"][:768]))
    packed = memoryview(chunks.data)
    parts += [(b"IDAT", packed[:-LAST]), (b"IDAT", packed[-LAST:]), (b"IEND", b"")]
    whole = [SIGNATURE]
    for name, body in parts:
        check = zlib.crc32(body, zlib.crc32(name))
        whole += [struct.pack(">I4s", len(body), name), body, struct.pack(">I", check)]
    file = io.BytesIO(b"".join(whole))
    with PngImagePlugin.PngImageFile(file) as image:
        if raw_mode is not None:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        image.load()
        array = np.array(image)
    return array.astype(np.uint8) * 255 if array.dtype == bool else array


def _too_short(chunks: _Chunks, width: int, height: int, bits: int, interlaced: int) -> bool:
    """Whether the unpacked image data has fewer bytes than the image needs: Pillow leaves the rest black without a word.

    Args:
        chunks: Of the file.
        width: In pixels.
        height: In pixels.
        bits: Of a pixel.
        interlaced: 1 for Adam7's seven passes (first column and row, steps), 0 for one.
    """
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    needed = 0
    for x, y, dx, dy in steps if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(x, width, dx)), len(range(y, height, dy))
        needed += rows * (1 + math.ceil(columns * bits / 8)) if columns else 0
    unpacker, packed = zlib.decompressobj(), memoryview(chunks.data)
    with contextlib.suppress(zlib.error):
        for at in range(0, len(packed), STEP):
            needed -= len(unpacker.decompress(packed[at : at + STEP]))
            if needed <= 0 or unpacker.eof:
                break
    return needed > 0


def _color_key(samples: np.ndarray, key: np.ndarray, depth: int) -> np.ndarray:
    """tRNS of gray and RGB: all samples equal to the key, at the file's depth, are transparent."""
    levels = 2**depth - 1
    wanted = key.astype(np.int64) & levels  # a decoder uses the low bits (11.3.1.1)
    if depth < 8:
        wanted = wanted * 255 // levels
    return np.where((samples == wanted).all(-1), 0, 255).astype(np.uint8)


def _through_palette(
    index: np.ndarray, palette: bytes, trns: bytes | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Palette indices -> RGB, and alpha where the palette has one."""
    if len(palette) < 3:
        raise ImageError("damaged, cut short or not supported (a palette image without a palette)")
    colors = np.zeros((256, 3), np.uint8)
    count = min(len(palette) // 3, 256)
    colors[:count] = np.frombuffer(palette, np.uint8, 3 * count).reshape(-1, 3)
    if int(index.max()) >= count:
        notes.append(f"{DAMAGED}: pixels with color {int(index.max())} of a palette of {count}, they are black")
    if not trns:
        return colors[index], None
    opacity = np.full(256, 255, np.uint8)
    opacity[: min(len(trns), 256)] = np.frombuffer(trns[:256], np.uint8)
    return colors[index], opacity[index]


def _color(chunks: dict[bytes, bytes], notes: list[str]) -> tuple[bytes | None, RgbSpace | None]:
    """-> ICC profile or color space, by the order of precedence of the third edition: cICP, iCCP, sRGB, gAMA and cHRM."""
    cicp = chunks.get(b"cICP", b"")
    if len(cicp) == 4:
        primaries, transfer, matrix, full_range = cicp
        if not full_range:
            raise ImageError(
                "narrow-range samples (by its cICP chunk) are not supported: convert the image to full range first"
            )
        if matrix == 0:
            return None, colorspace.from_cicp(primaries, transfer, notes)
        notes.append(f"cICP chunk with matrix {matrix} ignored, PNG wants 0")
    elif b"cICP" in chunks:
        notes.append(f"cICP chunk of {len(cicp)} bytes ignored, PNG wants 4")
    if b"iCCP" in chunks:
        name, _, rest = chunks[b"iCCP"].partition(b"\0")
        try:
            profile = zlib.decompressobj().decompress(rest[1:], MAX_PROFILE)
        except zlib.error:
            profile = b""
        if profile:
            return profile, None
        notes.append(f"unusable color profile ignored ({name.decode('latin-1')[:40]!r} cannot be unpacked)")
    if b"sRGB" in chunks:
        return None, None
    gamma = chromaticities = None
    if len(chunks.get(b"gAMA", b"")) == 4:
        gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100000
    if len(chunks.get(b"cHRM", b"")) == 32:
        chromaticities = tuple(value / 100000 for value in struct.unpack(">8I", chunks[b"cHRM"]))
    return None, _space(gamma, chromaticities, notes)


def space_of_info(info: Mapping[Any, Any], notes: list[str]) -> RgbSpace | None:
    """What Pillow keeps of gAMA, cHRM and sRGB in the `info` of an image -> its space; of cICP it keeps nothing."""
    if "srgb" in info:
        return None
    gamma, found = info.get("gamma"), info.get("chromaticity")
    chromaticities = found if isinstance(found, tuple) and len(found) == 8 else None
    return _space(gamma if isinstance(gamma, float) else None, chromaticities, notes)


def _space(gamma: float | None, chromaticities: tuple[float, ...] | None, notes: list[str]) -> RgbSpace | None:
    """The space of a gamma and of chromaticities, those of white first as PNG has them; what is impossible is left out."""
    if gamma is not None and not 0.01 <= gamma <= 100:
        notes.append(f"impossible gamma {gamma:g} ignored")
        gamma = None
    if chromaticities is not None:
        chromaticities = (*chromaticities[2:], *chromaticities[:2])
    try:
        return colorspace.from_gamma(gamma, _checked(chromaticities))
    except ValueError as error:
        notes.append(f"impossible cHRM chunk ignored ({error})")
        return colorspace.from_gamma(gamma, None)


def _checked(chromaticities: tuple[float, ...] | None) -> Chromaticities | None:
    if chromaticities is not None and (min(chromaticities[1::2]) <= 0 or max(chromaticities) > 2):
        raise ValueError("its chromaticities are out of range")
    return chromaticities  # type: ignore[return-value]
