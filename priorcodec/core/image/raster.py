"""What every decoder in this folder returns: samples as stored in the file, and what is needed to turn them into sRGB."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

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
    """Raises ImageError for an image of more than `max_pixels` pixels, or of none."""
    if width < 1 or height < 1:
        raise ImageError(f"the image is {width}x{height}: it has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"the image is {width}x{height}, more than {max_pixels} pixels: scale it down, or raise max_pixels"
        )
