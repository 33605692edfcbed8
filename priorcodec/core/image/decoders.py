"""A file's bytes -> samples, by what the file is and not by its name: PNG, JPEG, WebP, AVIF, TIFF, HEIC.

Pillow's decoders are called directly: `Image.open` applies one limit to the whole process; here `max_pixels` decides.
Nothing global is changed and no lock is held, so that any number of threads can decode at once.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

from PIL import AvifImagePlugin, JpegImagePlugin, WebPImagePlugin

from priorcodec.core.errors import ImageError
from priorcodec.core.image import colorspace, exif, heif, jpeg_damage, pillow_modes, png, tiff
from priorcodec.core.image.raster import Raster, check_size

WANTED = "wanted PNG, JPEG, WebP, AVIF or TIFF (or HEIC, with pillow-heif)"
JPEG_START = b"\xff\xd8\xff"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode(data: bytes, max_pixels: int) -> Raster:
    """Decode an image file, the first of its frames.

    Args:
        data: The file.
        max_pixels: A larger image is refused before its pixels are decoded.

    Raises:
        ImageError: No such file, too large, or not supported.
        Exception: Whatever a decoder raises for damaged data.
    """
    if not data:
        raise ImageError(f"the file is empty: {WANTED}")
    return _decoder(data)(data, max_pixels)


def _decoder(data: bytes) -> Callable[[bytes, int], Raster]:
    if data.startswith(png.SIGNATURE):
        return png.decode
    if data.startswith(JPEG_START):
        return _jpeg
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp
    if data.startswith(TIFF_STARTS):
        return tiff.decode
    brands = heif.brands(data)
    if brands & heif.AVIF_BRANDS:
        return _avif
    if brands & heif.HEIC_BRANDS:
        return _heic
    raise ImageError(f"not an image that can be read: {WANTED}")


def _jpeg(data: bytes, max_pixels: int) -> Raster:
    data, block = _without_exif(data)
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
        check_size(*image.size, max_pixels)
        jpeg_damage.check_scans(data)
        image.load()
        image.info["exif"] = block
        return _raster(image, jpeg_damage.notes(data))


def _without_exif(data: bytes) -> tuple[bytes, bytes]:
    """-> the file without its APP1 segments, in which Pillow's parser would look for a resolution, and its EXIF block."""
    kept, block, at = [data[:2]], b"", 2
    while data[at : at + 1] == b"\xff" and (marker := data[at + 1 : at + 2]) not in (b"", b"\xda", b"\xd9"):
        if marker == b"\xff":  # fill
            at += 1
            continue
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at : at + size]
        if marker != b"\xe1":
            kept.append(segment)
        elif segment[4:].startswith(exif.PREFIX) and not block:
            block = segment[4:]
        at += size
    return b"".join([*kept, data[at:]]), block


class _ShortReads(io.BytesIO):
    """A file that gives at most 16 bytes a call unless all is wanted.

    Pillow's WebP plugin looks for the size in the first 30 bytes it gets and compares it with its global limit; ours is
    checked before.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None or size < 0 else min(size, 16))


def _webp(data: bytes, max_pixels: int) -> Raster:
    check_size(*_webp_size(data), max_pixels)
    with WebPImagePlugin.WebPImageFile(_ShortReads(data)) as image:
        check_size(*image.size, max_pixels)
        return _raster(image, [])


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas (RFC 9649, 2.5 to 2.7)."""
    kind, body = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        both = int.from_bytes(body[1:5], "little")
        return 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _avif(data: bytes, max_pixels: int) -> Raster:
    with AvifImagePlugin.AvifImageFile(io.BytesIO(data)) as image:
        check_size(*image.size, max_pixels)
        return _raster(image, [], heif.properties(data))


def _heic(data: bytes, max_pixels: int) -> Raster:
    try:
        import pillow_heif  # type: ignore[import-not-found]
    except ImportError:
        raise ImageError("HEIC needs a plugin: pip install pillow-heif, or convert the image to PNG") from None
    try:
        file = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)
    except (EOFError, RuntimeError, SyntaxError, ValueError) as error:
        raise ImageError(f"damaged, cut short or not supported ({' '.join(str(error).split())})") from error
    check_size(*file.size, max_pixels)
    image = file.to_pillow()  # upright already
    image.info.pop("exif", None)
    return _raster(image, [], heif.properties(data))


def _raster(image: Any, notes: list[str], properties: heif.Properties | None = None) -> Raster:
    """What is common to all formats that Pillow decodes: frames, profile, orientation."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.insert(0, f"only one of {frames} frames or pages")
    icc, space = image.info.get("icc_profile"), None
    if properties is not None and properties.cicp is not None:
        try:
            space = colorspace.from_cicp(*properties.cicp, notes)
        except ImageError:
            if not icc:
                raise
    orientation = exif.orientation(image.info.get("exif", b""), notes)
    bits = 8 if properties is None else properties.bits
    return pillow_modes.to_raster(image, icc=icc, space=space, orientation=orientation, bits=bits, notes=notes)
