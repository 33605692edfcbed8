"""Names of files: shown in one printable line, and cut to a length that the file system takes."""

from __future__ import annotations

import hashlib
import os
import sys
import unicodedata
from pathlib import Path

NAME_MAX = 255  # bytes, where the file system does not say otherwise


def printable(text: object, limit: int = 300) -> str:
    """Text of unknown origin as one printable line, cut after `limit` characters."""
    line = "".join(c if c.isprintable() else "?" for c in str(text)[: limit + 1])
    return line if len(line) <= limit else f"{line[:limit]}..."


def one_line(text: object) -> str:
    """Text of several lines, such as an exception's, as one printable line."""
    try:
        line = str(text)
    except Exception:  # of an exception from somebody else's code
        line = f"a {type(text).__name__} that cannot be shown"
    return printable(" ".join(line.split()), 1000)


def printable_lines(text: str) -> str:
    """Text of several lines for a terminal, each line printable."""
    return "\n".join(printable(line, 2000) for line in text.split("\n"))


def as_compared(path: str) -> str:
    """A path as the file system compares it: on macOS and Windows `A.png` and `a.png` are one file."""
    return unicodedata.normalize("NFC", path).casefold() if sys.platform in ("darwin", "win32") else path


def fit_name(stem: str, suffix: str, folder: str | Path = ".") -> str:
    """`stem + suffix`, with the stem cut where the name would be too long for the file system.

    A cut stem ends in eight digits of a hash of the whole, so that two long names stay two, and the same name is always
    cut in the same way.

    Args:
        stem: Name without suffix.
        suffix: With its dot.
        folder: Where the file is to lie; asked for the longest name it takes.
    """
    limit = name_max(folder)
    if len(os.fsencode(stem + suffix)) <= limit:
        return stem + suffix
    tail = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}{suffix}"
    return cut(stem, limit - len(os.fsencode(tail))) + tail


def cut(name: str, limit: int) -> str:
    """The longest start of `name` that takes at most `limit` bytes, whole characters only."""
    name = name[: max(limit, 0)]
    while len(os.fsencode(name)) > limit:
        name = name[:-1]
    return name


def name_max(folder: str | Path) -> int:
    """The longest name in bytes that a folder takes (the nearest one that exists is asked)."""
    at = Path(folder).absolute()
    while not at.exists() and at != at.parent:
        at = at.parent
    try:
        return os.pathconf(at, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):
        return NAME_MAX
