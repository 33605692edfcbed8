"""TIFF 6.0 and BigTIFF: pages and tags, the choice of the page, and who decodes it.

Samples of 1 to 16 bits in gray, RGB, CMYK or a palette are read by `tiff_samples`, at full depth and with their alpha.
JPEG and fax compression, YCbCr and CIELAB go to Pillow.
"""

from __future__ import annotations

import contextlib
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
    SAMPLES,
    WIDTH,
    Tags,
    directory,
    file_of,
    numbers,
    one,
    raw,
)

MAX_PAGES = 10_000
NEW_SUBFILE, SUBFILE, SUB_IFDS, ICC = 254, 255, 330, 34675
JPEG, JPEG_TABLES = 7, 347  # a compression, and a tag
REDUCED, MASK = 1, 4  # bits of NewSubfileType
PRIVATE = 32768  # tags from here on, and these, decide no pixel: texts, resolutions, times, pages below, XMP
DESCRIBING = frozenset({*range(269, 273), 282, 283, 285, 305, 306, 315, 316, 330, 333, 700})
WANTED = frozenset({*range(254, 533), ICC})  # all tags of TIFF 6.0
DECIDING = WANTED - DESCRIBING - {ICC}  # all that Pillow gets: it unpacks every tag there is
SHARED = 2**16  # bytes of a strip or tile that others may have as well: blank tiles, tables
MUCH_LARGER = 2  # in each direction: what makes an unmarked first page a thumbnail


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """One image file directory."""

    tags: Tags

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
    if (samples := one(page.tags, SAMPLES, 1)) * page.area > 4 * max_pixels:
        raise ImageError(
            f"the image is {page.size[0]}x{page.size[1]} with {samples} samples a pixel, more than {4 * max_pixels} "
            "samples: leave channels out, scale it down, or raise max_pixels"
        )
    if needed := sorted(tag for tag in page.tags.lost - DESCRIBING if tag < PRIVATE):
        raise ImageError(f"damaged or cut short (the value of tag {needed[0]} lies outside the file)")
    if ICC in page.tags.lost:
        notes.append(f"{DAMAGED}: the color profile lies outside the file, colors may be wrong")
    icc = bytes(raw(page.tags, ICC))
    if not tiff_samples.supports(page.tags):
        return _by_pillow(page.tags, notes, icc)
    samples, model, alpha, bits = tiff_samples.read(page.tags, notes)
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
    room = len(data)

    def page_at(place: int) -> Page:
        nonlocal room
        seen.add(place)
        tags = directory(data, place, order, big, WANTED)
        room -= tags.size
        if room < 0:
            raise ImageError("damaged or not supported (its directories overlap)")
        return Page(tags=tags)

    while at and at not in seen and len(pages) < MAX_PAGES:
        try:
            pages.append(page_at(at))
        except struct.error:
            if pages:
                break
            raise ImageError("damaged or cut short (its directory lies outside the file)") from None
        at = pages[-1].tags.following
    if pages and pages[0].reduced:
        for below in numbers(pages[0].tags, SUB_IFDS, 100):
            with contextlib.suppress(struct.error):
                if below not in seen:
                    pages.append(page_at(below))
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


def _by_pillow(tags: Tags, notes: list[str], icc: bytes) -> Raster:
    _parts(tags)  # only for its check
    with TiffImagePlugin.TiffImageFile(io.BytesIO(file_of(tags, DECIDING))) as image:
        image.im = Image.new(image.mode, image.size).im  # allocated here: Pillow would ask a limit that is global
        image.load()
        turned = image.getexif().get(ORIENTATION, 1)  # Pillow turns some itself and then says so
        notes += _jpeg_damage(tags)
        return pillow_modes.to_raster(image, icc=icc, orientation=turned, notes=notes)


def _jpeg_damage(tags: Tags) -> list[str]:
    """The first damage in the strips or tiles of a JPEG-compressed page, each of which is a JPEG that lacks its tables."""
    if one(tags, COMPRESSION, RAW) != JPEG:
        return []
    tables = bytes(raw(tags, JPEG_TABLES))[2:-2]
    for at, size in _parts(tags):
        part = tags.data[at : at + size]
        if found := jpeg_damage.notes(part[:2] + tables + part[2:]):
            return found
    return []


def _parts(tags: Tags) -> list[tuple[int, int]]:
    """Where the strips or tiles that the page needs start, and their bytes.

    Raises:
        ImageError: Together they are much larger than the file: each would be copied as often as it is claimed.
    """
    found = [(at, max(size, 0)) for at, size in zip(*tiff_samples.locations(tags), strict=False)]
    claimed = sum(max(min(size, len(tags.data) - at), 0) for at, size in found)
    if claimed + len(raw(tags, JPEG_TABLES)) * len(found) > len(tags.data) + SHARED * len(found):
        raise ImageError("damaged or not supported (its strips or tiles overlap)")
    return found
