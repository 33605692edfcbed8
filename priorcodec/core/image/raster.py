"""What every decoder in this folder returns: samples as stored in the file, and what is needed to turn them into sRGB."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from priorcodec.core.container import padded
from priorcodec.core.errors import ImageError
from priorcodec.core.image.colorspace import RgbSpace

DAMAGED = "damaged"  # a note that starts with this word reports data that was lost


@dataclass(frozen=True, kw_only=True)
class Raster:
    """A decoded image before color conversion, alpha blending and rotation.

    Attributes:
        samples: (h, w, c), uint8 or uint16 over the whole range of its type; c is 1, 3 or 4 by `model`.
        model: Color model of `samples`; "lab" is 8-bit CIE L*a*b* as Pillow stores it.
        alpha: (h, w) uint8, not premultiplied, or None.
        bits: Bits a sample has in the file; only for the note that they were reduced.
        icc: Embedded ICC profile; it decides before `space`.
        space: RGB color space stated by other means (CICP, gAMA, cHRM); None is sRGB.
        orientation: EXIF orientation, 1 to 8; other values count as 1.
        notes: What a reader of the image should know, one short phrase each.
    """

    samples: np.ndarray
    model: Literal["gray", "rgb", "cmyk", "lab"]
    alpha: np.ndarray | None = None
    bits: int = 8
    icc: bytes | None = None
    space: RgbSpace | None = None
    orientation: int = 1
    notes: tuple[str, ...] = field(default=())


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError for an image of none, or of more than `max_pixels` pixels, counted as for a file: with its padding."""
    if width < 1 or height < 1:
        raise ImageError(f"the image is {width}x{height}: it has no pixels")
    rows, columns = padded(height, width)
    if rows * columns > max_pixels:
        raise ImageError(
            f"the image is {width}x{height}, with its padding {columns}x{rows}, more than {max_pixels} pixels: "
            "scale it down, or raise max_pixels"
        )


def to_8_bit(samples: np.ndarray) -> np.ndarray:
    """The upper 8 bits of uint16 samples; uint8 ones as they are."""
    if samples.dtype == np.uint8:
        return samples
    return np.right_shift(samples, 8, out=np.empty(samples.shape, np.uint8), casting="unsafe")


def to_image(samples: np.ndarray, mode: str) -> Image.Image:
    """uint8 (h, w, c) -> Pillow image of a mode with c channels."""
    height, width = samples.shape[:2]
    return Image.frombuffer(mode, (width, height), np.ascontiguousarray(samples), "raw", mode, 0, 1)


def reason(error: Exception) -> str:
    """One line on why an image could not be read."""
    if isinstance(error, MemoryError):
        return "the image does not fit into memory: scale it down or cut it"
    if isinstance(error, OSError) and error.strerror:
        return os.strerror(error.errno) if error.errno else error.strerror
    return f"damaged, cut short or not supported ({' '.join(str(error).split()) or type(error).__name__})"
