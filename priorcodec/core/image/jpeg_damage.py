"""Damage in JPEG data: libjpeg goes on after it with a warning that Pillow drops."""

from __future__ import annotations

import re

from priorcodec.core.errors import ImageError
from priorcodec.core.image.raster import DAMAGED

MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # of a segment; the others lie in a scan's data, or fill
START_OF_SCAN, END = b"\xff\xda", b"\xff\xd9"
MAX_SCANS = (
    100  # as in libtiff; encoders write about ten, and a scan of a few bytes makes libjpeg visit all of the image
)


def check_scans(data: bytes) -> None:
    """Raises ImageError for a JPEG of more than `MAX_SCANS` scans."""
    count, at = 0, 2
    while (found := MARKER.search(data, at)) and found[0] != END:
        count += found[0] == START_OF_SCAN
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    if count > MAX_SCANS:
        raise ImageError(f"a JPEG of {count} scans, wanted at most {MAX_SCANS}: save it anew")


def notes(data: bytes) -> list[str]:
    """At most one phrase about what libjpeg found; the data is decoded again, small, only to hear it."""
    import simplejpeg

    try:
        *_, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        simplejpeg.decode_jpeg(
            data, "CMYK" if "CMYK" in space or "YCCK" in space else "GRAY", min_height=1, min_width=1
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        if any(word in reason.lower() for word in ("corrupt", "premature", "invalid", "inconsistent")):
            return [f"{DAMAGED}: {reason}, parts of the image may be wrong"]
    return []
