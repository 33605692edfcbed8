"""Names of files: shown in one printable line, and cut to a length that the file system takes."""

from __future__ import annotations

import os


def printable(text: object, limit: int = 300) -> str:
    """Text of unknown origin as one printable line, cut after `limit` characters."""
    line = "".join(c if c.isprintable() else "?" for c in str(text)[: limit + 1])
    return line if len(line) <= limit else f"{line[:limit]}..."


def cut(name: str, limit: int) -> str:
    """The longest start of `name` that takes at most `limit` bytes, whole characters only."""
    name = name[: max(limit, 0)]
    while len(os.fsencode(name)) > limit:
        name = name[:-1]
    return name
