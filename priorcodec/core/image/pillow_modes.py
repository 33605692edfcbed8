"""A Pillow image of any 8 or 16-bit mode -> samples."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from PIL import Image

from priorcodec.core.errors import ImageError
from priorcodec.core.image.colorspace import RgbSpace
from priorcodec.core.image.raster import Raster

MODES: dict[str, Literal["gray", "rgb", "cmyk", "lab"]] = {
    "L": "gray", "LA": "gray", "RGB": "rgb", "RGBA": "rgb", "CMYK": "cmyk", "LAB": "lab",
}  # fmt: skip
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
    if image.mode.startswith("I;16"):
        array, model, bits = np.asarray(image).astype(np.uint16), "gray", 16
        if isinstance(key, int):
            alpha = np.where(array == key, 0, 255).astype(np.uint8)
    else:
        image = _plain(image, key)
        if image.mode not in MODES:
            raise ImageError(
                f"pixels of type {image.mode!r}: wanted 8 or 16 bit gray, RGB or CMYK; convert the image first"
            )
        array, model = np.array(image), MODES[image.mode]
        if image.mode in ("LA", "RGBA"):
            array, alpha = array[..., :-1], array[..., -1]
    return Raster(
        samples=array[..., None] if array.ndim == 2 else array,
        model=model,
        alpha=alpha,
        bits=bits,
        icc=icc,
        space=space,
        orientation=orientation,
        notes=tuple(notes or ()),
    )


def _plain(image: Image.Image, key: Any) -> Image.Image:
    """The image in one of `MODES` if its mode can be converted without a guess."""
    mode = image.mode
    if mode in STRAIGHT:
        return image.convert(STRAIGHT[mode])
    if mode == "PA" or (key is not None and mode in {"1", "L", "P", "RGB"}):
        return image.convert("LA" if mode in {"1", "L"} and not isinstance(key, bytes) else "RGBA")
    if mode in TO_RGB:
        return image.convert("RGB")
    return image.convert("L") if mode == "1" else image


def _cut_by_pillow(image: Image.Image) -> bool:
    """Pillow cuts 16-bit color to 8 while it decodes, so only the decoder's settings show it."""
    return any(f";{DEEP}" in str(tile[3]) for tile in getattr(image, "tile", ()))
