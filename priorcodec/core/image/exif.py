"""The orientation in an EXIF block (CIPA DC-008, tag 0x0112); pixels never depend on anything else in it."""

from __future__ import annotations

import struct

from priorcodec.core.image.tiff_tags import ORIENTATION, directory, one

PREFIX = b"Exif\0\0"
UNREADABLE = "unreadable EXIF data ignored"


def orientation(block: bytes, notes: list[str]) -> int:
    """The orientation stated by EXIF data, 1 if there is none.

    Args:
        block: EXIF data, with or without its prefix; may be empty or damaged.
        notes: Gets a phrase if the block cannot be read.
    """
    if not block:
        return 1
    block = block.removeprefix(PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        if order is None:
            raise struct.error
        at = struct.unpack_from(order + "I", block, 4)[0]
        return one(directory(block, at, order, big=False, wanted={ORIENTATION}), ORIENTATION, 1)
    except struct.error:
        notes.append(UNREADABLE)
        return 1
