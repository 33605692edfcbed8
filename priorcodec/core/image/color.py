"""A decoded image -> 8-bit sRGB: upright, no alpha, no foreign color space. No torch.

samples ─ICC profile or color space─▶ 8-bit sRGB ─background under alpha─▶ ─orientation─▶ pixels
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms, ImageColor

from priorcodec.core.errors import ImageError
from priorcodec.core.image import colorspace, icc
from priorcodec.core.image.raster import Raster, to_8_bit, to_image


def to_srgb(raster: Raster, *, background: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert a decoded image.

    Args:
        raster: What a decoder returned.
        background: Color (a name or #rrggbb) to put under transparent parts.

    Returns:
        uint8 sRGB (h, w, 3), and notes on what had to be changed, one short phrase each.

    Raises:
        ImageError: Transparent parts without a background, or a background that is no color.
    """
    backdrop = None if background is None else parse_color(background)
    alpha = raster.alpha
    if alpha is not None and int(alpha.min()) == 255:
        alpha = None
    if alpha is not None and backdrop is None:
        raise ImageError(
            "the image has transparent parts: give a background color to put under them, such as white or '#rrggbb'"
        )
    notes = list(raster.notes)
    pixels = _converted(raster, notes)
    if alpha is not None and backdrop is not None:
        pixels = _composite(pixels, alpha, backdrop)
    return np.require(upright(pixels, raster.orientation), requirements=["C", "W"]), tuple(notes)


def parse_color(text: str, name: str = "background") -> tuple[int, int, int]:
    """A color's name or #rrggbb -> its samples. Raises ImageError where it is neither; name: of the setting."""
    try:
        rgb = ImageColor.getrgb(text)
    except (ValueError, AttributeError):
        rgb = ()
    if len(rgb) != 3 or max(rgb) > 255:
        raise ImageError(f"{name} {text!r} is no color: wanted a name like 'white', or '#rrggbb'")
    return rgb


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (a view of the array); values outside 2 to 8 change nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _converted(raster: Raster, notes: list[str]) -> np.ndarray:
    """-> uint8 sRGB (h, w, 3)."""
    samples, model = raster.samples, raster.model
    if raster.bits > 8:
        notes.append(f"{raster.bits} bits a sample cut to 8")
    if raster.icc and model != "lab":
        try:
            pixels, name = icc.to_srgb(samples, model, raster.icc)
            if pixels is not None:
                notes.append(f"colors converted from {name} to sRGB")
                return pixels
        except icc.UNUSABLE as error:
            notes.append(f"unusable color profile ignored ({' '.join(str(error).split())})")
    elif raster.space is not None and model in ("gray", "rgb"):
        notes.append(f"colors converted from {raster.space.name} to sRGB")
        return colorspace.to_srgb(samples, raster.space)
    samples = to_8_bit(samples)
    if model == "cmyk":
        notes.append("CMYK turned into RGB without a profile: colors are approximate")
        return np.array(to_image(samples, "CMYK").convert("RGB"))
    if model == "lab":
        notes.append("colors converted from CIELAB to sRGB")
        return _from_lab(samples)
    return np.repeat(samples, 3, 2) if samples.shape[2] == 1 else samples


def _from_lab(samples: np.ndarray) -> np.ndarray:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(to_image(samples, "LAB"), ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None  # only None when it works in place
    return np.array(converted)


def _composite(pixels: np.ndarray, alpha: np.ndarray, backdrop: tuple[int, int, int]) -> np.ndarray:
    """Put a color under transparent parts, in 8-bit sRGB as every viewer does."""
    under = Image.new("RGB", (pixels.shape[1], pixels.shape[0]), backdrop)
    mask = Image.fromarray(np.ascontiguousarray(alpha))
    return np.array(Image.composite(Image.fromarray(np.ascontiguousarray(pixels)), under, mask))
