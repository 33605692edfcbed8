"""Images in and out: files, Pillow images, arrays and tensors <-> 8-bit sRGB pixels; padding to the codec's grid.

    file ─load─▶ pixels uint8 (h, w, 3) ─to_tensor─▶ (1, 3, h, w) in [-1, 1] ─pad─▶ both sides a multiple of 64
    file ◀─save─ pixels uint8 (h, w, 3) ◀─to_pixels─ (1, 3, h, w) in [-1, 1] ◀─crop─ what the decoder made

torch is imported inside the functions that need it.
"""

from __future__ import annotations

import io
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from priorcodec.core.container import MAX_PIXELS
from priorcodec.core.errors import ImageError
from priorcodec.core.image import color
from priorcodec.core.io import atomic

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF")
SAVE: dict[str, dict[str, Any]] = {  # by suffix: how `save` writes; lossless where the format can
    "": {"format": "PNG"},
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
    ".avif": {"format": "AVIF", "quality": 90, "subsampling": "4:4:4"},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
}
NOTE = "priorcodec"  # keyword of a PNG text chunk
_pillow = threading.Lock()  # its limit is a global


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """pixels: sRGB, uint8 (h, w, 3); notes: what was changed on the way in, one short phrase each."""

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def load(
    source: str | Path | bytes | IO[bytes], *, background: str | None = None, max_pixels: int = MAX_PIXELS
) -> Loaded:
    """Read a PNG, JPEG, WebP, AVIF or TIFF: upright by EXIF, colors in sRGB, 8 bit, first frame of several.

    source: path, the file's bytes, or an open binary file; background: color under transparent parts, a name or
    #rrggbb; max_pixels: a larger image is refused before its pixels are decoded.

    Raises:
        ImageError: not a readable image, too large, or transparent without a background; one line.
    """
    name = str(source) if isinstance(source, str | Path) else "the image"
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with _pillow_limit(None):
            image = Image.open(file, formats=FORMATS)
        with image:
            return _loaded(image, background, max_pixels)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders meet hostile bytes here and raise whatever they like
        raise ImageError(f"{name}: {_reason(error)}") from error


def from_any(image: Any, *, background: str | None = None, max_pixels: int = MAX_PIXELS) -> Loaded:
    """Whatever a caller has -> pixels.

    image: a Pillow image; a uint8 array (h, w), (h, w, 3) or (h, w, 4); a tensor (3, h, w) or (1, 3, h, w), uint8
    or floating point in [-1, 1]; or anything `load` reads. Floating-point arrays are refused: their range is a guess.

    Raises:
        ImageError: another type, shape or range, or as for `load`.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(image, torch.Tensor):
        return Loaded(pixels=_within(_tensor_pixels(image), max_pixels))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
            got = f"{image.dtype} array of shape {image.shape}"
            raise ImageError(f"got a {got}, wanted uint8 (h, w), (h, w, 3) or (h, w, 4): scale to 0..255 and convert")
        if image.size == 0:
            raise ImageError(f"the array of shape {image.shape} has no pixels")
        image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        try:
            return _loaded(image, background, max_pixels)
        except ImageError:
            raise
        except Exception as error:  # a lazily opened file decodes here
            raise ImageError(_reason(error)) from error
    if isinstance(image, str | Path | bytes) or hasattr(image, "read"):
        return load(image, background=background, max_pixels=max_pixels)
    raise ImageError(f"got {type(image).__name__}, wanted an image: path, bytes, Pillow image, array or tensor")


def save(pixels: np.ndarray, path: str | Path, *, note: str = "") -> None:
    """Write uint8 (h, w, 3) in the format of the suffix (none: PNG), whole or not at all.

    note: a short ASCII text that a PNG keeps for `note_of`; other formats drop it.

    Raises:
        ImageError: unknown suffix, or the format cannot hold the image. PriorCodecError: the path cannot be written.
    """
    path = Path(path)
    options = SAVE.get(path.suffix.lower())
    if options is None:
        raise ImageError(
            f"cannot write {path}: no format for {path.suffix!r}, wanted one of {', '.join(filter(None, SAVE))}"
        )
    if note and options["format"] == "PNG":
        options = {**options, "pnginfo": PngInfo()}
        options["pnginfo"].add_text(NOTE, note)
    data = io.BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(pixels)).save(data, **options)
    except (ValueError, OSError) as error:
        raise ImageError(f"cannot write {path}: {_reason(error)}") from error
    atomic.write(path, data.getvalue())


def note_of(path: Path) -> str:
    """The note that `save` put into a PNG whose checksums hold; empty if it has none or is no such file."""
    try:
        with _pillow_limit(None), Image.open(path, formats=["PNG"]) as image:
            note = image.info.get(NOTE, "")
            image.verify()
    except Exception:  # as in `load`
        return ""
    return note if isinstance(note, str) else ""


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (h, w, 3) -> float32 (1, 3, h, w) in [-1, 1]."""
    return to_range(to_planes(pixels))


def to_planes(pixels: np.ndarray) -> Tensor:
    """uint8 (h, w, 3) -> uint8 (1, 3, h, w), the same memory where torch can use it: a large image is not copied."""
    import torch

    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]


def to_range(planes: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [-1, 1]."""
    return planes.float() / 127.5 - 1


def to_pixels(x: Tensor) -> np.ndarray:
    """(1, 3, h, w) or (3, h, w), [-1, 1], any floating type -> uint8 (h, w, 3): clamped, then rounded once, halves up.

    Raises:
        ImageError: another shape, or a value that is not a number.
    """
    if x.ndim not in (3, 4) or x.shape[-3] != 3 or (x.ndim == 4 and x.shape[0] != 1):
        raise ImageError(f"got a tensor of shape {tuple(x.shape)}, wanted (1, 3, h, w) or (3, h, w)")
    x = x.detach().reshape(x.shape[-3:]).float()
    if bool(x.isnan().any()):
        raise ImageError("the image has values that are not numbers: try another dtype, float32 for one")
    levels = ((x + 1) * 127.5).clamp(0, 255).add(0.5).floor()
    return np.ascontiguousarray(levels.byte().permute(1, 2, 0).cpu().numpy())


def pad(x: Tensor, multiple: int = 64) -> Tensor:
    """(b, c, h, w) -> both sides a multiple of `multiple`, mirrored at the right and the bottom, for any size from 1x1.

    Where the image is smaller than the padding the mirror image repeats; one pixel is simply repeated.
    """
    import torch

    for dim in (-2, -1):
        size = x.shape[dim]
        target = -(-size // multiple) * multiple
        if target != size:
            period = max(2 * size - 2, 1)
            index = torch.arange(target, device=x.device) % period
            x = x.index_select(dim, torch.minimum(index, period - index) if size > 1 else index)
    return x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., height, width), the top left corner: undoes `pad`. Raises ImageError where x is smaller."""
    if x.shape[-2] < height or x.shape[-1] < width:
        raise ImageError(
            f"cannot crop {x.shape[-1]}x{x.shape[-2]} to {width}x{height}: wanted at least as large an image"
        )
    return x[..., :height, :width]


def _loaded(image: Image.Image, background: str | None, max_pixels: int) -> Loaded:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"the image is {width}x{height}, more than {max_pixels} pixels: scale it down, or raise max_pixels"
        )
    frames = getattr(image, "n_frames", 1)
    notes = (f"only one of {frames} frames or pages",) if frames > 1 else ()
    with _pillow_limit(max_pixels):
        rgb, more = color.to_srgb(image, background=background)
    return Loaded(pixels=np.array(rgb), notes=notes + more)


def _tensor_pixels(x: Tensor) -> np.ndarray:
    import torch

    if x.numel() == 0 or (x.dtype != torch.uint8 and not x.is_floating_point()):
        raise ImageError(
            f"got a {x.dtype} tensor of shape {tuple(x.shape)}, wanted uint8, or floating point in [-1, 1]"
        )
    if x.dtype == torch.uint8:
        return to_pixels(x.float() / 127.5 - 1)
    low, high = float(x.min()), float(x.max())
    if low < -1.001 or high > 1.001:
        raise ImageError(
            f"the tensor's values go from {low:.4g} to {high:.4g}, wanted [-1, 1]: use 2 * x - 1 on [0, 1]"
        )
    return to_pixels(x)


def _within(pixels: np.ndarray, max_pixels: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if width * height > max_pixels:
        raise ImageError(
            f"the image is {width}x{height}, more than {max_pixels} pixels: scale it down, or raise max_pixels"
        )
    return pixels


@contextmanager
def _pillow_limit(pixels: int | None) -> Iterator[None]:
    """Pillow warns above 89 million pixels and fails above twice that, also for one tile; here `max_pixels` decides."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _reason(error: Exception) -> str:
    """One line on why an image could not be read."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that can be read: wanted PNG, JPEG, WebP, AVIF or TIFF"
    if isinstance(error, MemoryError):
        return "the image does not fit into memory: scale it down or cut it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"damaged, cut short or not supported ({' '.join(str(error).split()) or type(error).__name__})"
