"""A .gic file given as bytes, as a path, or as an open file -> its bytes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO, TypeAlias

from priorcodec.core.errors import ConfigError, StreamError
from priorcodec.core.io.names import one_line, printable

Data: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO"
"""A .gic file: its bytes, its path, or an open binary file."""


def standard_input() -> BinaryIO:
    """Standard input as a binary file. Raises ConfigError: the program was started without one."""
    if sys.stdin is None:
        raise ConfigError("standard input (-) is closed, wanted a file piped to it, or the file's name")
    return sys.stdin.buffer


def read_file(data: Data) -> bytes:
    """The bytes of a file given as bytes, path or binary file. Raises StreamError: it cannot be read."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if isinstance(data, str | os.PathLike):
        try:
            return Path(os.fsdecode(data)).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = error.strerror if isinstance(error, OSError) else error
            name = printable(os.fsdecode(data))
            raise StreamError(f"{name} cannot be read ({reason}): give the path of a .gic file") from error
    read = getattr(data, "read", None)
    try:
        content = read() if read is not None else None
    except (OSError, ValueError) as error:  # closed, opened for writing, or gone
        raise StreamError(f"the open file cannot be read ({one_line(error)}): open it for binary reading") from error
    if not isinstance(content, bytes):
        kind = type(data).__name__ if content is None else f"a file of {type(content).__name__}"
        raise StreamError(f"got {kind}, wanted bytes, a path, or a file opened for binary reading")
    return content
