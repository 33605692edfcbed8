"""The strips or tiles of a TIFF page, uncompressed: Deflate by zlib; LZW, PackBits, LZMA and Zstandard by Pillow's libtiff."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, TiffImagePlugin

from priorcodec.core.errors import ImageError
from priorcodec.core.image.tiff_tags import (
    BITS,
    BLACK_IS_ZERO,
    COMPRESSION,
    FILL_ORDER,
    HEIGHT,
    PHOTOMETRIC,
    RAW,
    ROWS_PER_STRIP,
    SAMPLES,
    STRIP_BYTES,
    STRIP_OFFSETS,
    WIDTH,
    Tags,
    one,
)

DEFLATE = {8, 32946}
BYTE_CODERS = {*DEFLATE, 5, 32773, 34925, 50000}  # the others are LZW, PackBits, LZMA and Zstandard


def read(
    tags: Tags,
    offsets: tuple[int, ...],
    counts: tuple[int, ...],
    shape: tuple[int, int],
    rows_per_part: int,
) -> np.ndarray:
    """Unpack strips or tiles -> uint8 of `shape`, one part below the other.

    What is neither raw nor Deflate becomes an 8-bit gray TIFF of that shape, which libtiff decodes whatever the samples mean.
    """
    compression, fill = one(tags, COMPRESSION, RAW), one(tags, FILL_ORDER, 1)
    needed = [min(rows_per_part, shape[0] - i * rows_per_part) * shape[1] for i in range(len(offsets))]
    # Parts may overlap and claim any size: no more is taken than the worst of coders makes of such a part.
    most = [size if compression == RAW else 3 * size + 256 for size in needed]
    parts = [tags.data[at : at + max(min(claimed), 0)] for at, *claimed in zip(offsets, counts, most, strict=True)]
    if compression in DEFLATE and fill == 1:
        parts = [_inflated(part, size) for part, size in zip(parts, needed, strict=True)]
    elif compression != RAW:
        return _by_libtiff(_gray_tiff(parts, shape, rows_per_part, compression, fill))
    if any(len(part) < size for part, size in zip(parts, needed, strict=True)):
        raise ImageError("damaged or cut short (the file ends before the image)")
    raw = np.frombuffer(b"".join(part[:size] for part, size in zip(parts, needed, strict=True)), np.uint8)
    return (_reversed_bits()[raw] if fill == 2 and compression == RAW else raw).reshape(shape)


def _inflated(part: bytes, size: int) -> bytes:
    """At most `size` bytes of a Deflate stream, its checksum verified if it ends there. Raises ImageError: damaged."""
    try:
        return zlib.decompressobj().decompress(part, size + 1)
    except zlib.error as error:
        raise ImageError(f"damaged or cut short ({error})") from error


def _by_libtiff(data: bytes) -> np.ndarray:
    with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as image:
        image.im = Image.new("L", image.size).im  # allocated here: Pillow would ask a limit that is global
        image.load()
        return np.asarray(image)


def _gray_tiff(parts: list[bytes], shape: tuple[int, int], rows_per_part: int, compression: int, fill: int) -> bytes:
    """A little-endian TIFF of 8-bit gray with these compressed strips."""
    count = len(parts)
    entries = {
        WIDTH: shape[1], HEIGHT: shape[0], BITS: 8, COMPRESSION: compression, PHOTOMETRIC: BLACK_IS_ZERO,
        FILL_ORDER: fill, STRIP_OFFSETS: 0, SAMPLES: 1, ROWS_PER_STRIP: rows_per_part, STRIP_BYTES: 0,
    }  # fmt: skip
    lists = 8 + 2 + 12 * len(entries) + 4
    at, offsets = lists + 8 * count, []
    for part in parts:
        offsets.append(at)
        at += len(part)
    if at >= 2**32:
        raise ImageError("compressed data of more than 4 GiB is not supported: convert the image first")
    sizes = [len(part) for part in parts]
    out = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, value in entries.items():
        if tag in (STRIP_OFFSETS, STRIP_BYTES):
            offset = lists + (4 * count if tag == STRIP_BYTES else 0)
            single = sizes[0] if tag == STRIP_BYTES else offsets[0]
            out += struct.pack("<HHII", tag, 4, count, single if count == 1 else offset)
        else:
            out += struct.pack("<HHII", tag, 4, 1, value)
    return out + struct.pack(f"<I{count}I{count}I", 0, *offsets, *sizes) + b"".join(parts)


def _reversed_bits() -> np.ndarray:
    """Byte -> the byte with its bits in the other order."""
    return np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]
