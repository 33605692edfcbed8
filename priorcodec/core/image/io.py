"""Images in and out: files, Pillow images, arrays and tensors <-> 8-bit sRGB pixels.

    file ─load─▶ pixels uint8 (h, w, 3) ─to_tensor─▶ (1, 3, h, w) in [-1, 1] ─pad─▶ both sides a multiple of 64
    file ◀─save─ pixels uint8 (h, w, 3) ◀─to_pixels─ (1, 3, h, w) in [-1, 1] ◀─crop─ what the decoder made

`load` is the only reader of images: encoding, training and evaluation see the same pixels.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile

from priorcodec.core.container import MAX_PIXELS
from priorcodec.core.errors import ImageError, ImageWarning, warn_caller
from priorcodec.core.image import color, decoders, exif, pillow_modes, png
from priorcodec.core.image.raster import DAMAGED, check_size, reason
from priorcodec.core.image.tensors import crop, pad, to_pixels, to_planes, to_range, to_tensor
from priorcodec.core.image.writing import SAVE, note_of, save, save_options
from priorcodec.core.io.names import printable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "SAVE", "SUFFIXES", "Loaded", "crop", "from_any", "load", "note_of", "pad", "save", "save_options", "to_pixels",
    "to_planes", "to_range", "to_tensor",
]  # fmt: skip

# What `load` reads.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".tif", ".tiff", ".heic", ".heif"})
MAX_FILE = 2**32  # bytes; an endless device must not fill the memory
CHUNK = 2**24  # bytes a read


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An image as the codec wants it.

    Attributes:
        pixels: sRGB, uint8 (h, w, 3).
        notes: What was changed on the way in, and damage that was found; one short phrase each.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def damaged(self) -> bool:
        """Whether some of the pixels may be wrong because the file is damaged; a note says how."""
        return any(note.startswith(DAMAGED) for note in self.notes)


def load(
    source: str | Path | bytes | IO[bytes],
    *,
    background: str | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> Loaded:
    """Read an image file: upright by EXIF, colors in sRGB, 8 bit, the first frame of several.

    PNG, JPEG, WebP, AVIF and TIFF are read, and HEIC where pillow-heif is installed. Safe to call from many threads:
    no lock is held and no setting of the process is changed.

    Args:
        source: Path, the file's bytes, or an open binary file, seekable or not.
        background: Color under transparent parts, a name or #rrggbb.
        max_pixels: A larger image is refused before its pixels are decoded.
        name: What error messages call the image; a path's or file's own name by default.

    Raises:
        ImageError: Not a readable image, too large, or transparent without a background; one line.
    """
    if name is None:
        given = source if isinstance(source, str | Path) else getattr(source, "name", None)
        name = str(given) if isinstance(given, str | Path) and str(given) else "the image"
    try:
        raster = decoders.decode(_bytes_of(source), max_pixels)
        pixels, notes = color.to_srgb(raster, background=background)
        return Loaded(pixels=pixels, notes=notes)
    except ImageError as error:
        raise ImageError(f"{printable(name)}: {error}") from error
    except Exception as error:  # decoders meet hostile bytes here and raise whatever they like
        raise ImageError(f"{printable(name)}: {reason(error)}") from error


def from_any(image: Any, *, background: str | None = None, max_pixels: int = MAX_PIXELS) -> Loaded:
    """Whatever a caller has -> pixels.

    Args:
        image: A Pillow image; a uint8 array (h, w), (h, w, 1), (h, w, 2: gray and alpha), (h, w, 3) or (h, w, 4); a
            tensor (3, h, w) or (1, 3, h, w), uint8 or floating point in [-1, 1]; or anything `load` reads.
            Floating-point arrays are refused: their range would be a guess.
        background: As for `load`.
        max_pixels: As for `load`.

    Raises:
        ImageError: Another type, shape or range, or as for `load`.

    Warns:
        ImageWarning: A tensor whose values look like [0, 1], or a damaged file.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(image, torch.Tensor):
        if image.ndim in (3, 4) and 0 not in image.shape:
            check_size(image.shape[-1], image.shape[-2], max_pixels)  # before anything is copied
        return Loaded(pixels=_tensor_pixels(image))
    if isinstance(image, np.ndarray):
        if image.ndim in (2, 3) and image.size:
            check_size(image.shape[1], image.shape[0], max_pixels)
        image = _array_image(image)
    if isinstance(image, io.TextIOBase):
        raise ImageError("got a file that was opened as text: open it in binary mode, 'rb'")
    if isinstance(image, os.PathLike):
        image = Path(os.fsdecode(image))
    if isinstance(image, Image.Image):
        loaded = _from_pillow(image, background, max_pixels)
    elif isinstance(image, str | Path | bytes | bytearray | memoryview) or hasattr(image, "read"):
        source = bytes(image) if isinstance(image, bytearray | memoryview) else image
        loaded = load(source, background=background, max_pixels=max_pixels)
    else:
        raise ImageError(f"got {type(image).__name__}, wanted an image: path, bytes, Pillow image, array or tensor")
    name = printable(image) if isinstance(image, str | Path) else "the image"
    for note in loaded.notes:
        if note.startswith(DAMAGED):
            warn_caller(ImageWarning, f"{name}: {note}")
    return loaded


def _bytes_of(source: str | Path | bytes | IO[bytes]) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, str | Path):
        if "\0" in str(source):
            raise ImageError("a path cannot hold a NUL character")
        with open(source, "rb") as file:
            return _read(file)
    return _read(source)


def _read(file: IO[bytes]) -> bytes:
    """All of a file, in parts: a single large read would reserve its size in memory first."""
    parts, size = [], 0
    while part := file.read(CHUNK):
        if not isinstance(part, bytes):
            raise ImageError(f"the file gives {type(part).__name__}: open it in binary mode")
        parts.append(part)
        size += len(part)
        if size > MAX_FILE:
            raise ImageError(f"the file is larger than {MAX_FILE >> 30} GiB: scale the image down")
    return b"".join(parts)


def _from_pillow(image: Image.Image, background: str | None, max_pixels: int) -> Loaded:
    try:
        check_size(*image.size, max_pixels)
        data = _undecoded_file(image)
        if data is not None:
            return load(data, background=background, max_pixels=max_pixels)
        frames = getattr(image, "n_frames", 1)
        notes = [f"only one of {frames} frames or pages"] if frames > 1 else []
        image.load()  # which reads the chunks behind a PNG's pixels as well
        icc = image.info.get("icc_profile")
        space = None if icc else png.space_of_info(image.info, notes)
        # What `transpose` or `crop` gives is no file's image, and may hold the tag of one that it was turned upright by.
        orientation = _orientation(image, notes) if isinstance(image, ImageFile.ImageFile) else 1
        raster = pillow_modes.to_raster(image, icc=icc, space=space, orientation=orientation, notes=notes)
        pixels, phrases = color.to_srgb(raster, background=background)
        return Loaded(pixels=pixels, notes=phrases)
    except ImageError:
        raise
    except Exception as error:  # a lazily opened file decodes here
        if isinstance(error, ValueError) and "closed" in str(error):
            raise ImageError("the Pillow image or its file is closed: pass it before that, or load() it") from error
        raise ImageError(reason(error)) from error


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        return image.getexif().get(exif.ORIENTATION, 1)
    except Exception:  # whatever a damaged block makes the parser raise, the pixels are there
        notes.append(exif.UNREADABLE)
        return 1


def _undecoded_file(image: Any) -> bytes | None:
    """The bytes behind an opened but not yet decoded image whose depth, color or damage Pillow would not tell."""
    file = getattr(image, "fp", None)
    if image.format not in ("PNG", "TIFF", "AVIF", "JPEG") or not image.tile or file is None or image.tell() != 0:
        return None
    if getattr(image, "decoderconfig", ()):  # of a JPEG that `draft` will make smaller
        return None
    try:
        at = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(at)
    except (OSError, ValueError, AttributeError):
        return None
    known = data.startswith((png.SIGNATURE, *decoders.TIFF_STARTS, decoders.JPEG_START)) or data[4:8] == b"ftyp"
    return data if known else None


def _array_image(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 2, 3, 4))):
        got = f"{array.dtype} array of shape {array.shape}"
        raise ImageError(f"got a {got}, wanted uint8 (h, w), (h, w, 3) or (h, w, 4): scale to 0..255 and convert")
    if array.size == 0:
        raise ImageError(f"the array of shape {array.shape} has no pixels")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _tensor_pixels(x: Tensor) -> np.ndarray:
    import torch

    if x.device.type == "meta" or x.layout is not torch.strided:
        raise ImageError(f"got a {x.layout} tensor on {x.device}, wanted a dense one with values")
    if x.numel() == 0 or (x.dtype != torch.uint8 and not x.is_floating_point()):
        raise ImageError(
            f"got a {x.dtype} tensor of shape {tuple(x.shape)}, wanted uint8, or floating point in [-1, 1]"
        )
    if x.dtype == torch.uint8:
        return to_pixels(x.float() / 127.5 - 1)
    x = x.detach().float()  # the smallest types know no minimum
    low, high = float(x.min()), float(x.max())
    if low < -1.001 or high > 1.001:
        raise ImageError(
            f"the tensor's values go from {low:.4g} to {high:.4g}, wanted [-1, 1]: use 2 * x - 1 on [0, 1]"
        )
    if 0 <= low < high:
        warn_caller(
            ImageWarning,
            f"the tensor's values go from {low:.4g} to {high:.4g}, taken as [-1, 1]: if black is 0, give 2 * x - 1 "
            "instead, or the image comes out washed out",
        )
    return to_pixels(x)
