"""TIFF 6.0 and BigTIFF: pages and tags, the choice of the page, and who decodes it.

Samples of 1 to 16 bits in gray, RGB, CMYK or a palette are read by `tiff_samples`, at full depth and with their alpha.
JPEG and fax compression, YCbCr and CIELAB go to Pillow.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import Image, TiffImagePlugin

from priorcodec.core.errors import ImageError
from priorcodec.core.image import jpeg_damage, pillow_modes, tiff_samples
from priorcodec.core.image.raster import DAMAGED, Raster, check_size
from priorcodec.core.image.tiff_tags import (
    COMPRESSION,
    HEIGHT,
    ORIENTATION,
    RAW,
    STRIP_BYTES,
    STRIP_OFFSETS,
    TILE_BYTES,
    TILE_OFFSETS,
    WIDTH,
    Tags,
    directory,
    numbers,
    one,
)

MAX_PAGES = 10_000
NEW_SUBFILE, SUBFILE, SUB_IFDS, ICC = 254, 255, 330, 34675
JPEG, JPEG_TABLES = 7, 347  # a compression, and a tag
REDUCED, MASK = 1, 4  # bits of NewSubfileType
PRIVATE = 32768  # tags from here on, and these, decide no pixel: texts, resolutions, times, pages below, XMP
DESCRIBING = frozenset({*range(269, 273), 282, 283, 285, 305, 306, 315, 316, 330, 333, 700})
MUCH_LARGER = 2  # in each direction: what makes an unmarked first page a thumbnail


@dataclass(frozen=True, kw_only=True)
class Page:
    """One image file directory: where it starts, its tags, and those whose values lie outside the file."""

    offset: int
    tags: Tags
    lost: frozenset[int]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return one(self.tags, WIDTH, 0), one(self.tags, HEIGHT, 0)

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def reduced(self) -> bool:
        """Whether the page says that it is a smaller version of another, or a mask."""
        kind = one(self.tags, NEW_SUBFILE, 0)
        return bool(kind & (REDUCED | MASK)) or one(self.tags, SUBFILE, 1) == 2


def decode(data: bytes, max_pixels: int) -> Raster:
    """Read the full-size page of a TIFF.

    Args:
        data: The file.
        max_pixels: A larger image is refused before its pixels are decoded.

    Raises:
        ImageError: Damaged, cut short, too large, or samples that are not supported.
    """
    order = "<" if data[:2] == b"II" else ">"
    notes: list[str] = []
    page = _chosen(_pages(data, order), notes)
    check_size(*page.size, max_pixels)
    if needed := sorted(tag for tag in page.lost - DESCRIBING if tag < PRIVATE):
        raise ImageError(f"damaged or cut short (the value of tag {needed[0]} lies outside the file)")
    if ICC in page.lost:
        notes.append(f"{DAMAGED}: the color profile lies outside the file, colors may be wrong")
    stored = page.tags.get(ICC, b"")
    icc = stored if isinstance(stored, bytes) else bytes(value & 255 for value in stored)
    if not tiff_samples.supports(page.tags):
        return _by_pillow(data, page, order, notes, icc)
    samples, model, alpha, bits = tiff_samples.read(data, page.tags, order, notes)
    turned = one(page.tags, ORIENTATION, 1)
    return Raster(samples=samples, model=model, alpha=alpha, bits=bits, icc=icc, orientation=turned, notes=tuple(notes))


def _pages(data: bytes, order: str) -> list[Page]:
    """All pages of the file, and the pages below the first one where that is only a thumbnail."""
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    try:
        at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    except struct.error:
        raise ImageError("damaged or cut short (no directory)") from None
    pages: list[Page] = []
    seen: set[int] = set()
    while at and at not in seen and len(pages) < MAX_PAGES:
        seen.add(at)
        try:
            tags, following, lost = directory(data, at, order, big)
        except struct.error:
            if pages:
                break
            raise ImageError("damaged or cut short (its directory lies outside the file)") from None
        pages.append(Page(offset=at, tags=tags, lost=lost))
        at = following
    if pages and pages[0].reduced:
        for below in numbers(pages[0].tags, SUB_IFDS)[:100]:
            try:
                tags, _, lost = directory(data, below, order, big)
            except struct.error:
                continue
            pages.append(Page(offset=below, tags=tags, lost=lost))
    return pages


def _chosen(pages: list[Page], notes: list[str]) -> Page:
    """The page to code: the first that is no reduced version, or the largest where the first is far smaller."""
    if not pages:
        raise ImageError("damaged, cut short or not supported (no page in it)")
    full = [page for page in pages if not page.reduced] or [max(pages, key=lambda page: page.area)]
    page, largest = full[0], max(full, key=lambda page: page.area)
    if all(big >= MUCH_LARGER * max(small, 1) for big, small in zip(largest.size, page.size, strict=True)):
        page = largest
    others = sorted({other.size for other in pages} - {page.size})
    if page is not pages[0] or others:
        sizes = ", ".join(f"{w}x{h}" for w, h in others[:3]) or "the same size"
        notes.append(
            f"page {pages.index(page) + 1} of {len(pages)} taken ({page.size[0]}x{page.size[1]}); others are {sizes}"
        )
    elif len(pages) > 1:
        notes.append(f"only one of {len(pages)} frames or pages")
    return page


def _by_pillow(data: bytes, page: Page, order: str, notes: list[str], icc: bytes) -> Raster:
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    start = (
        data[:8] + struct.pack(order + "Q", page.offset) if big else data[:4] + struct.pack(order + "I", page.offset)
    )
    with TiffImagePlugin.TiffImageFile(io.BytesIO(start + data[len(start) :])) as image:
        image.im = Image.new(image.mode, image.size).im  # allocated here: Pillow would ask a limit that is global
        image.load()
        turned = image.getexif().get(ORIENTATION, 1)  # Pillow turns some itself and then says so
        notes += _jpeg_damage(data, page.tags)
        return pillow_modes.to_raster(image, icc=icc, orientation=turned, notes=notes)


def _jpeg_damage(data: bytes, tags: Tags) -> list[str]:
    """The first damage in the strips or tiles of a JPEG-compressed page, each of which is a JPEG that lacks its tables."""
    if one(tags, COMPRESSION, RAW) != JPEG:
        return []
    stored = tags.get(JPEG_TABLES, b"")
    tables = stored[2:-2] if isinstance(stored, bytes) else bytes(value & 255 for value in stored)[2:-2]
    tiled = TILE_OFFSETS in tags
    offsets = numbers(tags, TILE_OFFSETS if tiled else STRIP_OFFSETS)
    sizes = numbers(tags, TILE_BYTES if tiled else STRIP_BYTES)
    for at, size in zip(offsets, sizes, strict=False):
        part = data[at : at + size]
        if found := jpeg_damage.notes(part[:2] + tables + part[2:]):
            return found
    return []
