"""Any image Pillow can decode -> 8-bit sRGB: upright, no palette, no alpha, no foreign color profile. No torch.

decoded ─orientation─▶ upright ─16 to 8 bit─▶ ─alpha aside─▶ ─profile─▶ sRGB ─background under alpha─▶ RGB
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageColor

from priorcodec.core.errors import ImageError

MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF tag and value


def to_srgb(image: Image.Image, *, background: str | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """-> an RGB image and notes on what had to be changed, one short phrase each.

    background: color (a name or #rrggbb) to put under transparent parts.

    Raises:
        ImageError: transparent parts without a background, a color that is none, or more than 16 bits a sample.
    """
    notes: list[str] = []
    backdrop = None if background is None else _color(background)
    icc = image.info.get("icc_profile")
    deep, inverted = _is_16_bit(image), getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    image.load()
    image = _upright(image, notes)
    if deep:
        notes.append("16 bits a sample cut to 8")
    if image.mode.startswith("I;16"):
        image = _gray_16_to_8(image, inverted)
    if image.mode not in MODES:
        raise ImageError(
            f"pixels of type {image.mode!r}: wanted 8 or 16 bit gray, RGB or CMYK; convert the image first"
        )
    image, alpha = _without_alpha(image)
    if alpha is not None and backdrop is None:
        raise ImageError(
            "the image has transparent parts: give a color to put under them, --background white or '#rrggbb'"
        )
    image = _convert(image, icc, notes)
    if alpha is not None and backdrop is not None:
        image = Image.composite(image, Image.new("RGB", image.size, backdrop), alpha)
    return image, tuple(notes)


def _color(text: str) -> tuple[int, int, int]:
    try:
        rgb = ImageColor.getrgb(text)
    except (ValueError, AttributeError):
        rgb = ()
    if len(rgb) != 3:
        raise ImageError(f"background {text!r} is no color: wanted a name like 'white', or '#rrggbb'")
    return rgb


def _is_16_bit(image: Image.Image) -> bool:
    """Pillow cuts 16-bit color to 8 while it decodes, so only the decoder's settings tell."""
    return image.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Turn by the EXIF orientation; Pillow's own `exif_transpose` gives up where any other tag is damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever a damaged EXIF block makes the parser do, the pixels are there
        notes.append("unreadable EXIF data ignored")
        return image
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _gray_16_to_8(image: Image.Image, inverted: bool) -> Image.Image:
    samples = np.asarray(image)
    key = image.info.get("transparency")
    gray = Image.fromarray(((65535 - samples if inverted else samples) >> 8).astype(np.uint8))
    if key is None:
        return gray
    return Image.merge("LA", (gray, Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8))))


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """-> the image in a mode without palette and alpha, and its alpha unless all of it is opaque."""
    if image.mode in ALPHA or image.info.get("transparency") is not None:
        gray = image.mode in {"LA", "La"}
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB").convert("L") if gray else image.convert("RGB")
        return image, None if alpha.getextrema() == (255, 255) else alpha
    if image.mode == "1":
        return image.convert("L"), None
    return (image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")), None


def _convert(image: Image.Image, icc: bytes | None, notes: list[str]) -> Image.Image:
    """L, RGB or CMYK -> RGB, through the embedded profile where there is a usable one."""
    if icc:
        try:
            return _through_profile(image, icc, notes)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            notes.append(f"unusable color profile ignored ({' '.join(str(error).split())})")
    if image.mode == "CMYK":
        notes.append("CMYK turned into RGB without a profile: colors are approximate")
    return image.convert("RGB")


def _through_profile(image: Image.Image, icc: bytes, notes: list[str]) -> Image.Image:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    header: Any = profile.profile  # Pillow's type stubs take it for the open file
    space = header.xcolor_space.strip()
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if {"GRAY": "L"}.get(space, space) != image.mode:
        raise ValueError(f"it is for {space or 'unknown'} pixels, the image has {image.mode}")
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), image.mode, "RGB")
    if image.mode != "CMYK" and _changes_nothing(transform, image.mode):
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only None when it works in place
    name = " ".join((header.profile_description or "an unnamed profile").split())
    notes.append(f"colors converted from {name} to sRGB")
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether the profile is sRGB by any name: rounding must not touch pixels that need no conversion."""
    if mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None]
    else:
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        probe = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    before = Image.fromarray(probe)
    after = ImageCms.applyTransform(before, transform)
    difference = np.asarray(before.convert("RGB"), dtype=np.int16) - np.asarray(after, dtype=np.int16)
    return int(np.abs(difference).max()) <= 1
