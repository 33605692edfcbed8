"""Writing a file so that a reader sees the whole new content or the old one, never half: write beside, then rename."""

from __future__ import annotations

import functools
import os
import platform
import threading
import zlib
from pathlib import Path

from priorcodec.core.errors import PriorCodecError

_END = ".part"
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # two machines may write into one shared folder


def write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` in one step, on the disk before it has its name. What is no regular file (a pipe,
    /dev/stdout) is written directly.

    Raises:
        PriorCodecError: the path cannot be written; one line, nothing is left behind. A process killed meanwhile leaves a
        hidden `.part` file, which the next one to write into that folder removes.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:100]}.{_HOST}-{os.getpid()}-{threading.get_native_id()}{_END}")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        _sweep(path.parent.absolute())
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise PriorCodecError(f"cannot write {path}: {error.strerror or error}") from error


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left in `folder`; once per process and folder."""
    if os.name != "posix":  # elsewhere signal 0 is no question
        return
    for part in folder.glob(f".*.{_HOST}-*{_END}"):
        pid = part.name.removesuffix(_END).rpartition(f".{_HOST}-")[2].partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            part.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
