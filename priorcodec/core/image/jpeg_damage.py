"""Damage in JPEG data: libjpeg goes on after it with a warning that Pillow drops."""

from __future__ import annotations

from priorcodec.core.image.raster import DAMAGED


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
