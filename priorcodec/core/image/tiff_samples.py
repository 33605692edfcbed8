"""The samples of one TIFF page (TIFF 6.0, Adobe supplements 1 and 2): any depth to 16 bits, strips or tiles, both planar
configurations, both byte orders.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from priorcodec.core.errors import ImageError
from priorcodec.core.image import tiff_bytes
from priorcodec.core.image.raster import to_8_bit
from priorcodec.core.image.tiff_bytes import BYTE_CODERS
from priorcodec.core.image.tiff_tags import (
    BITS,
    BLACK_IS_ZERO,
    COMPRESSION,
    HEIGHT,
    PHOTOMETRIC,
    RAW,
    ROWS_PER_STRIP,
    SAMPLES,
    STRIP_BYTES,
    STRIP_OFFSETS,
    TILE_BYTES,
    TILE_OFFSETS,
    WIDTH,
    Tags,
    numbers,
    one,
)

Model = Literal["gray", "rgb", "cmyk", "lab"]
PLANAR, PREDICTOR, COLOR_MAP, TILE_WIDTH, TILE_HEIGHT, EXTRA_SAMPLES, SAMPLE_FORMAT = 284, 317, 320, 322, 323, 338, 339
SEPARATE = 2  # a value of PLANAR
WHITE_IS_ZERO, RGB, PALETTE, CMYK = 0, 2, 3, 5
COLORS: dict[int, tuple[int, Model]] = {  # by photometric interpretation
    WHITE_IS_ZERO: (1, "gray"),
    BLACK_IS_ZERO: (1, "gray"),
    RGB: (3, "rgb"),
    PALETTE: (1, "rgb"),
    CMYK: (4, "cmyk"),
}
ASSOCIATED, UNASSOCIATED = 1, 2  # ExtraSamples
FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}  # SampleFormat; 1 and 4 are unsigned
MAX_SAMPLES = 16  # channels of a page; more is no photograph
MIN_TILE = 16  # each side; TIFF wants multiples of it
MAX_PADDING = 2**26  # bytes that tiles may have where that is far more than the image has
UNPACKED = 2**20  # samples unpacked at a time; a multiple of 8, so that each time starts with a whole byte


def supports(tags: Tags) -> bool:
    """Whether `read` is the right reader: a known color model, and compression by bytes.

    Raises:
        ImageError: Samples that neither `read` nor Pillow turns into 8 bits without a guess.
    """
    kinds = set(numbers(tags, SAMPLE_FORMAT, MAX_SAMPLES)) & set(FORMATS)
    bits = set(numbers(tags, BITS, MAX_SAMPLES))
    if kinds or max(bits, default=1) > 16:
        what = f"{FORMATS.get(min(kinds, default=0), 'unsigned')} samples of {max(bits, default=1)} bits"
        raise ImageError(f"{what} are not supported: wanted 8 or 16 bit gray, RGB or CMYK; convert the image first")
    compression = one(tags, COMPRESSION, RAW)
    if one(tags, PHOTOMETRIC, -1) in COLORS and (compression == RAW or compression in BYTE_CODERS):
        return True
    if max(bits, default=1) not in (1, 8):
        raise ImageError(
            f"TIFF of photometric type {one(tags, PHOTOMETRIC, -1)}, compression {compression} and {max(bits)} bits is "
            "not supported: wanted 8 or 16 bit gray, RGB or CMYK; convert the image first"
        )
    return False


def read(tags: Tags, notes: list[str]) -> tuple[np.ndarray, Model, np.ndarray | None, int]:
    """Decode a page for which `supports` holds.

    Args:
        tags: The page's tags.
        notes: Gets a phrase about channels that are left out.

    Returns:
        Samples (h, w, c), uint8 or uint16 over the whole range of the type; color model; alpha (h, w) uint8 or None;
        bits a sample in the file.

    Raises:
        ImageError: Damaged, cut short, or a combination that is not supported.
    """
    photometric, per_pixel = one(tags, PHOTOMETRIC, -1), one(tags, SAMPLES, 1)
    bits = one(tags, BITS, 1)
    colors, model = COLORS[photometric]
    if set(numbers(tags, BITS, MAX_SAMPLES)) - {bits}:
        raise ImageError(f"samples of {numbers(tags, BITS, 4)} bits in one pixel are not supported: convert the image")
    if not 1 <= bits <= 16 or not colors <= per_pixel <= MAX_SAMPLES:
        raise ImageError(f"damaged or not supported ({per_pixel} samples of {bits} bits for {model})")
    stored = _stored(tags, per_pixel, bits)
    color, alpha = stored[..., :colors], None
    if photometric == PALETTE:
        color = _through_palette(color[..., 0], numbers(tags, COLOR_MAP, 3 * 2**bits), bits)
    elif photometric == WHITE_IS_ZERO:
        color = _full_range(2**bits - 1 - color, bits)
    else:
        color = _full_range(color, bits)
    extra = numbers(tags, EXTRA_SAMPLES, per_pixel - colors)
    at = next((i for i, kind in enumerate(extra) if kind in (ASSOCIATED, UNASSOCIATED)), None)
    if at is not None:
        deep = _full_range(stored[..., colors + at], bits)
        if extra[at] == ASSOCIATED:
            color = _unmultiplied(color, deep)
        alpha = to_8_bit(deep)
    if per_pixel - colors > (at is not None):
        notes.append(f"{per_pixel - colors - (at is not None)} extra channels left out")
    return color, model, alpha, bits


def parts(tags: Tags) -> tuple[int, int, int, int]:
    """Width and height of a page's strips or tiles, and how many lie side by side and one below the other.

    Raises:
        ImageError: Tiles that are too small, or so large that they would take far more memory than the image.
    """
    width, height = one(tags, WIDTH, 0), one(tags, HEIGHT, 0)
    tiled = TILE_OFFSETS in tags
    if tiled:
        part = one(tags, TILE_WIDTH, 0), one(tags, TILE_HEIGHT, 0)
    else:
        part = width, min(one(tags, ROWS_PER_STRIP, height) or height, height)
    across, down = (math.ceil(whole / max(side, 1)) for whole, side in zip((width, height), part, strict=True))
    padded = across * part[0] * down * part[1]
    padding = padded * one(tags, SAMPLES, 1) * one(tags, BITS, 1) // 8
    if min(part) < (MIN_TILE if tiled else 1) or (padded > 4 * width * height and padding > MAX_PADDING):
        raise ImageError(f"damaged or not supported (parts of {part[0]}x{part[1]} for an image of {width}x{height})")
    return *part, across, down


def count_planes(tags: Tags) -> int:
    """How many times the strips or tiles cover the image: once, or once for each channel."""
    return one(tags, SAMPLES, 1) if one(tags, PLANAR, 1) == SEPARATE else 1


def locations(tags: Tags) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the strips or tiles that a page needs start, and their bytes, as far as they are stated. Raises as `parts`."""
    *_, across, down = parts(tags)
    count = count_planes(tags) * across * down
    kinds = (TILE_OFFSETS, TILE_BYTES) if TILE_OFFSETS in tags else (STRIP_OFFSETS, STRIP_BYTES)
    offsets, counts = (numbers(tags, kind, count) for kind in kinds)
    return offsets, counts


def _stored(tags: Tags, per_pixel: int, bits: int) -> np.ndarray:
    """-> (h, w, samples), uint8 or uint16, the numbers as they are in the file."""
    width, height = one(tags, WIDTH, 0), one(tags, HEIGHT, 0)
    tiled, planes = TILE_OFFSETS in tags, count_planes(tags)
    together = per_pixel // planes
    *part, across, down = parts(tags)
    offsets, counts = locations(tags)
    row_bytes = math.ceil(part[0] * together * bits / 8)
    if not counts and one(tags, COMPRESSION, RAW) == RAW and len(offsets) == planes:  # allowed in old files
        counts = (row_bytes * part[1],) * planes
    if min(len(offsets), len(counts)) < planes * across * down:
        raise ImageError("damaged or cut short (parts of the image are missing)")
    stored = []
    for plane in range(planes):
        at = plane * across * down
        rows = down * across * part[1] if tiled else height
        which = slice(at, at + across * down)
        raw = tiff_bytes.read(tags, offsets[which], counts[which], (rows, row_bytes), part[1])
        samples = _unpacked(raw, part[0] * together, bits, tags.order).reshape(rows, part[0], together)
        samples = _unpredicted(samples, one(tags, PREDICTOR, 1), bits)
        if tiled:
            samples = samples.reshape(down, across, part[1], part[0], together).swapaxes(1, 2)
            samples = samples.reshape(down * part[1], across * part[0], together)[:height, :width]
        stored.append(samples)
    return stored[0] if planes == 1 else np.concatenate(stored, -1)


def _unpacked(raw: np.ndarray, count: int, bits: int, order: str) -> np.ndarray:
    """Rows of bytes -> rows of `count` samples, uint8 up to 8 bits, else uint16."""
    if bits == 8:
        return raw
    if bits == 16:
        return np.ascontiguousarray(raw).view(order + "u2").astype(np.uint16, copy=False)
    dtype = np.uint8 if bits < 8 else np.uint16
    out = np.empty((len(raw), count), dtype)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    step = max(1, UNPACKED // max(count, 1))
    for top in range(0, len(raw), step):
        for left in range(0, count, UNPACKED):
            part = out[top : top + step, left : left + UNPACKED]
            start = left * bits // 8
            packed = raw[top : top + step, start : start + UNPACKED * bits // 8]
            each = np.unpackbits(packed, axis=1)[:, : part.shape[1] * bits].reshape(*part.shape, bits)
            part[:] = (each * weights).sum(-1)
    return out


def _unpredicted(samples: np.ndarray, predictor: int, bits: int) -> np.ndarray:
    """Undo horizontal differencing (section 14); (rows, columns, samples), sums wrap at the type's range."""
    if predictor == 1:
        return samples
    if predictor != 2 or bits not in (8, 16):
        raise ImageError(f"damaged or not supported (predictor {predictor} with {bits} bits a sample)")
    out = np.empty_like(samples)
    for top in range(0, len(samples), 64):
        np.cumsum(samples[top : top + 64], axis=1, dtype=samples.dtype, out=out[top : top + 64])
    return out


def _full_range(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples of any depth -> the whole range of uint8 (up to 8 bits) or uint16."""
    if bits in (8, 16):
        return samples
    if bits < 8:
        return (np.arange(2**bits) * 255 // (2**bits - 1)).astype(np.uint8)[samples]
    return (samples << (16 - bits)) | (samples >> (2 * bits - 16))


def _through_palette(index: np.ndarray, color_map: tuple[int, ...], bits: int) -> np.ndarray:
    """Indices (h, w) -> 8-bit RGB; the map has all reds, then greens, then blues, 16 bits each."""
    if len(color_map) < 3 * 2**bits:
        raise ImageError("damaged or not supported (a palette image without a whole palette)")
    colors = np.array(color_map).reshape(3, -1).T
    return (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)[index]


def _unmultiplied(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Undo the multiplication by alpha, in bands of rows; nothing is known of the color where alpha is 0."""
    out = np.zeros_like(color)
    full = np.uint32(np.iinfo(color.dtype).max)
    rows = max(1, 2**20 // color.shape[1])
    for top in range(0, len(color), rows):
        a = alpha[top : top + rows, :, None].astype(np.uint32)
        value = (color[top : top + rows].astype(np.uint32) * full + a // 2) // np.maximum(a, 1)
        out[top : top + rows] = np.where(a > 0, np.minimum(value, full), 0)
    return out
