"""A Pillow image of any 8 or 16-bit mode -> samples."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from PIL import Image

from priorcodec.core.errors import ImageError
from priorcodec.core.image.colorspace import RgbSpace
from priorcodec.core.image.raster import Raster

MODES: dict[str, Literal["gray", "rgb", "cmyk", "lab"]] = {"L": "gray", "RGB": "rgb", "CMYK": "cmyk", "LAB": "lab"}
STRAIGHT = {"La": "LA", "RGBa": "RGBA"}  # alpha that was multiplied into the colors
TO_RGB = {"P", "RGBX", "YCbCr", "HSV"}
DEEP = "16"  # in the name of a layout of samples, as in RGB;16B


def to_raster(
    image: Image.Image,
    *,
    icc: bytes | None = None,
    space: RgbSpace | None = None,
    orientation: int = 1,
    bits: int = 8,
    notes: list[str] | None = None,
) -> Raster:
    """Take a Pillow image apart.

    Args:
        image: Decoded or not.
        icc: ICC profile.
        space: Color space stated otherwise.
        orientation: EXIF orientation.
        bits: Bits a sample had in the file.
        notes: What was found so far.

    Raises:
        ImageError: Pixels that would need a guess, such as floating-point ones.
    """
    if _cut_by_pillow(image):
        bits = 16
    key = image.info.get("transparency")
    image.load()
    alpha = None
    mode = image.mode
    if mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint16)[..., None]
        if isinstance(key, int):
            alpha = np.where(samples[..., 0] == key, 0, 255).astype(np.uint8)
        return _raster(samples, "gray", alpha, icc, space, orientation, 16, notes)
    if mode in STRAIGHT:
        image = image.convert(STRAIGHT[mode])
    elif mode == "PA" or (key is not None and mode in {"1", "L", "P", "RGB"}):
        image = image.convert("LA" if mode in {"1", "L"} and not isinstance(key, bytes) else "RGBA")
    elif mode in TO_RGB:
        image = image.convert("RGB")
    elif mode == "1":
        image = image.convert("L")
    if image.mode in {"LA", "RGBA"}:
        array = np.array(image)
        return _raster(
            array[..., :-1],
            "gray" if image.mode == "LA" else "rgb",
            array[..., -1],
            icc,
            space,
            orientation,
            bits,
            notes,
        )
    if image.mode not in MODES:
        raise ImageError(
            f"pixels of type {image.mode!r}: wanted 8 or 16 bit gray, RGB or CMYK; convert the image first"
        )
    array = np.array(image)
    return _raster(array, MODES[image.mode], alpha, icc, space, orientation, bits, notes)


def _raster(
    samples: np.ndarray, model: Any, alpha: Any, icc: Any, space: Any, turned: int, bits: int, notes: Any
) -> Raster:
    samples = samples[..., None] if samples.ndim == 2 else samples
    return Raster(
        samples=samples,
        model=model,
        alpha=alpha,
        bits=bits,
        icc=icc,
        space=space,
        orientation=turned,
        notes=tuple(notes or ()),
    )


def _cut_by_pillow(image: Image.Image) -> bool:
    """Pillow cuts 16-bit color to 8 while it decodes, so only the decoder's settings show it."""
    return any(f";{DEEP}" in str(tile[3]) for tile in getattr(image, "tile", ()))
