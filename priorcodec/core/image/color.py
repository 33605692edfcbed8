"""Any picture Pillow can decode -> 8-bit sRGB: upright, no palette, no alpha, no foreign colour profile. No torch.

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


def to_srgb(picture: Image.Image, *, background: str | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """-> an RGB picture and notes on what had to be changed, one short phrase each.

    background: colour (a name or #rrggbb) to put under transparent parts.

    Raises:
        ImageError: transparent parts without a background, a colour that is none, or more than 16 bits a sample.
    """
    notes: list[str] = []
    backdrop = None if background is None else _colour(background)
    icc = picture.info.get("icc_profile")
    deep, inverted = _is_16_bit(picture), getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    picture.load()
    picture = _upright(picture, notes)
    if deep:
        notes.append("16 bits a sample cut to 8")
    if picture.mode.startswith("I;16"):
        picture = _grey_16_to_8(picture, inverted)
    if picture.mode not in MODES:
        raise ImageError(
            f"pixels of type {picture.mode!r}: wanted 8 or 16 bit grey, RGB or CMYK; convert the picture first"
        )
    picture, alpha = _without_alpha(picture)
    if alpha is not None and backdrop is None:
        raise ImageError(
            "the picture has transparent parts: give a colour to put under them, --background white or '#rrggbb'"
        )
    picture = _convert(picture, icc, notes)
    if alpha is not None and backdrop is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, backdrop), alpha)
    return picture, tuple(notes)


def _colour(text: str) -> tuple[int, int, int]:
    try:
        rgb = ImageColor.getrgb(text)
    except (ValueError, AttributeError):
        rgb = ()
    if len(rgb) != 3:
        raise ImageError(f"background {text!r} is no colour: wanted a name like 'white', or '#rrggbb'")
    return rgb


def _is_16_bit(picture: Image.Image) -> bool:
    """Pillow cuts 16-bit colour to 8 while it decodes, so only the decoder's settings tell."""
    return picture.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))


def _upright(picture: Image.Image, notes: list[str]) -> Image.Image:
    """Turn by the EXIF orientation; Pillow's own `exif_transpose` gives up where any other tag is damaged."""
    try:
        orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever a damaged EXIF block makes the parser do, the pixels are there
        notes.append("unreadable EXIF data ignored")
        return picture
    turn = TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _grey_16_to_8(picture: Image.Image, inverted: bool) -> Image.Image:
    samples = np.asarray(picture)
    key = picture.info.get("transparency")
    grey = Image.fromarray(((65535 - samples if inverted else samples) >> 8).astype(np.uint8))
    if key is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8))))


def _without_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """-> the picture in a mode without palette and alpha, and its alpha unless all of it is opaque."""
    if picture.mode in ALPHA or picture.info.get("transparency") is not None:
        grey = picture.mode in {"LA", "La"}
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
        picture = picture.convert("RGB").convert("L") if grey else picture.convert("RGB")
        return picture, None if alpha.getextrema() == (255, 255) else alpha
    if picture.mode == "1":
        return picture.convert("L"), None
    return (picture if picture.mode in {"L", "RGB", "CMYK"} else picture.convert("RGB")), None


def _convert(picture: Image.Image, icc: bytes | None, notes: list[str]) -> Image.Image:
    """L, RGB or CMYK -> RGB, through the embedded profile where there is a usable one."""
    if icc:
        try:
            return _through_profile(picture, icc, notes)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            notes.append(f"unusable colour profile ignored ({' '.join(str(error).split())})")
    if picture.mode == "CMYK":
        notes.append("CMYK turned into RGB without a profile: colours are approximate")
    return picture.convert("RGB")


def _through_profile(picture: Image.Image, icc: bytes, notes: list[str]) -> Image.Image:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    header: Any = profile.profile  # Pillow's type stubs take it for the open file
    space = header.xcolor_space.strip()
    if space == "RGB" and picture.mode == "L":
        picture = picture.convert("RGB")
    if {"GRAY": "L"}.get(space, space) != picture.mode:
        raise ValueError(f"it is for {space or 'unknown'} pixels, the picture has {picture.mode}")
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), picture.mode, "RGB")
    if picture.mode != "CMYK" and _changes_nothing(transform, picture.mode):
        return picture.convert("RGB")
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None  # only None when it works in place
    name = " ".join((header.profile_description or "an unnamed profile").split())
    notes.append(f"colours converted from {name} to sRGB")
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
