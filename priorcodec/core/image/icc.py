"""ICC profiles (ICC.1:2022) -> sRGB: by LittleCMS on 8-bit samples, by the profile's own curves on 16-bit ones.

Pillow's binding of LittleCMS takes 8 bits a channel. Cutting a linear profile's samples to 8 bits would leave a handful
of levels in the shadows, so profiles made of curves and a matrix are computed here for 16-bit samples.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from priorcodec.core.image import colorspace
from priorcodec.core.image.colorspace import RgbSpace
from priorcodec.core.image.raster import to_8_bit, to_image

MODES = {"gray": "L", "rgb": "RGB", "cmyk": "CMYK"}
SPACES = {"GRAY": "L"}  # as a profile names them -> as Pillow does, where they differ
MAX_NAME = 100  # characters of a profile's name that a note repeats
UNUSABLE = (
    ImageCms.PyCMSError,
    OSError,
    ValueError,
    TypeError,
    struct.error,
)  # what `to_srgb` raises for a bad profile


def to_srgb(samples: np.ndarray, model: str, icc: bytes) -> tuple[np.ndarray | None, str]:
    """Convert samples through an embedded profile.

    Args:
        samples: uint8 or uint16 (h, w, c).
        model: Color model, "gray", "rgb" or "cmyk".
        icc: The profile.

    Returns:
        uint8 sRGB (h, w, 3) and the profile's name; None instead of pixels where the profile is sRGB by any name.

    Raises:
        UNUSABLE: A damaged profile, or one for another color model.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    header: Any = profile.profile  # Pillow's type stubs take it for the open file
    space, mode = header.xcolor_space.strip(), MODES[model]
    if space == "RGB" and mode == "L":
        mode = "RGB"
    if SPACES.get(space, space) != mode:
        raise ValueError(f"it is for {space or 'unknown'} pixels, the image has {mode}")
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    name = " ".join((header.profile_description or "an unnamed profile")[:MAX_NAME].split())
    if mode != "CMYK" and _changes_nothing(transform, mode):
        return None, name
    if samples.dtype == np.uint16:
        curves = curves_and_matrix(icc)
        if curves is not None:
            return colorspace.to_srgb(samples, curves), name
        samples = to_8_bit(samples)
    converted = ImageCms.applyTransform(to_image(samples, MODES[model]).convert(mode), transform)
    assert converted is not None  # only None when it works in place
    return np.array(converted), name


def curves_and_matrix(icc: bytes) -> RgbSpace | None:
    """The space of a profile made of curves and a matrix (or of one gray curve); None for one with lookup tables.

    Raises:
        ValueError, struct.error: Damaged curves.
    """
    count = struct.unpack_from(">I", icc, 128)[0]
    whole, tags = memoryview(icc), {}
    for i in range(min(count, 200)):
        name, offset, size = struct.unpack_from(">4sII", icc, 132 + 12 * i)
        tags[name] = whole[offset : offset + size]  # a view: tags may share their bytes
    if icc[20:24] != b"XYZ " or any(name.startswith(b"A2B") for name in tags):
        return None
    if icc[16:20] == b"GRAY" and b"kTRC" in tags:
        return RgbSpace(name="", curves=(_curve(tags[b"kTRC"]),))
    wanted = [b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"]
    if icc[16:20] != b"RGB " or any(name not in tags for name in wanted):
        return None
    colorants = np.array([_fixed(tags[name], 8, 3) for name in wanted[:3]]).T
    return RgbSpace(
        name="", curves=tuple(_curve(tags[name]) for name in wanted[3:]), matrix=colorspace.from_d50(colorants)
    )


def _fixed(tag: memoryview, offset: int, count: int) -> list[float]:
    """s15Fixed16 numbers."""
    return [value / 65536 for value in struct.unpack_from(f">{count}i", tag, offset)]


def _curve(tag: memoryview) -> np.ndarray:
    """A curveType or parametricCurveType tag (10.6, 10.18) -> table of 16-bit samples."""
    if tag[:4] == b"curv":
        count = struct.unpack_from(">I", tag, 8)[0]
        if count == 0:
            return colorspace.table(lambda v: v)
        if count == 1:
            gamma = struct.unpack_from(">H", tag, 12)[0] / 256
            return colorspace.table(lambda v: v**gamma)
        values = np.frombuffer(tag, ">u2", count, 12) / 65535.0
        return colorspace.table(lambda v: np.interp(v, np.linspace(0, 1, count), values))
    if tag[:4] != b"para":
        raise ValueError(f"a curve of type {bytes(tag[:4])!r}, wanted curv or para")
    kind = struct.unpack_from(">H", tag, 8)[0]
    if kind > 4:
        raise ValueError(f"a parametric curve of kind {kind}, wanted 0 to 4")
    g, a, b, c, d, e, f = (_fixed(tag, 12, (1, 3, 4, 5, 7)[kind]) + [0.0] * 6)[:7]
    if kind == 0:
        return colorspace.table(lambda v: v**g)
    if kind in (1, 2):  # d is where a * v + b turns positive; the constant is in c
        c, d, e, f = 0.0, (-b / a if a else 0.0), c, c

    def curve(v: np.ndarray) -> np.ndarray:
        return np.where(v >= d, (a * v + b).clip(0) ** g + e, c * v + f)

    return colorspace.table(curve)


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
