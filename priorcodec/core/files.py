"""Writing a file so that a reader sees the whole new content or the old one, never half: write beside, then rename."""

from __future__ import annotations

import os
from pathlib import Path

from priorcodec.core.errors import PriorCodecError


def write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` in one step. What is no regular file (a pipe, /dev/stdout) is written directly.

    Raises:
        PriorCodecError: the path cannot be written; one line, nothing is left behind.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        try:
            part.write_bytes(data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise PriorCodecError(f"cannot write {path}: {error.strerror or error}") from error
