"""Writing a file so that a reader sees the whole new content or the old one, never half: write beside, then rename."""

from __future__ import annotations

import functools
import os
import platform
import re
import stat
import sys
import threading
import zlib
from contextlib import suppress
from pathlib import Path

from priorcodec.core.errors import PriorCodecError
from priorcodec.core.io.names import cut, printable

STDOUT = "-"
_END = ".part"
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # two machines may write into one shared folder
_SHOWN = 60  # bytes of the file's own name in the temporary one
_MAX_LINKS = 40  # as Linux
_STREAMS = {"stdout": 1, "stderr": 2}
_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")


def write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` in one step, on the disk before it has its name.

    A link is written through and stays; an existing file keeps its mode, a new one follows the umask. "-" and
    /dev/stdout are standard output. What is no regular file (a pipe, a device) is written directly.

    Args:
        path: Where to.
        data: The whole content.

    Raises:
        PriorCodecError: The path cannot be written; one line, nothing is left behind. A process killed meanwhile leaves
            a hidden `.part` file, which the next one to write into that folder removes.
    """
    try:
        target = _target(path)
        if isinstance(target, int):
            _write_stream(target, data)
        elif target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except OSError as error:
        raise PriorCodecError(f"cannot write {printable(path)}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL, or a character that the file system cannot hold
        raise PriorCodecError(f"cannot write {printable(path)}: no possible name of a file") from error


def _target(path: str | Path) -> Path | int:
    """Where the bytes go: the file at the end of all links, or the number of an open stream."""
    at = Path(path)
    if str(at) == STDOUT:
        return _STREAMS["stdout"]
    for _ in range(_MAX_LINKS):
        stream = _DESCRIPTOR.fullmatch(os.path.abspath(at))
        if stream:
            return _STREAMS[stream[1]] if stream[1] else int(stream[2])
        if not at.is_symlink():
            return at
        at = at.parent / os.readlink(at)
    raise OSError("too many links, one after the other")


def _write_stream(number: int, data: bytes) -> None:
    """Write to an open stream after what was printed to it so far."""
    stream = {1: sys.stdout, 2: sys.stderr}.get(number)
    with suppress(AttributeError):  # a program without a console has none
        stream.flush()  # type: ignore[union-attr]
    binary = getattr(stream, "buffer", None)
    if binary is not None:
        binary.write(data)
        binary.flush()
        return
    left = memoryview(data)
    while left:
        left = left[os.write(number, left) :]


def _replace(target: Path, data: bytes) -> None:
    part = target.with_name(f".{cut(target.name, _SHOWN)}.{_HOST}-{os.getpid()}-{threading.get_native_id()}{_END}")
    _sweep(target.parent.absolute())
    before = os.stat(target) if target.exists() else None
    mode = 0o666 if before is None else stat.S_IMODE(before.st_mode)
    part.unlink(missing_ok=True)  # of a dead process with our number; its mode must not stay
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            if before is not None and os.name == "posix":
                with suppress(OSError):  # only the administrator may give a file away
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


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
    except OSError:  # a process of another user
        return True
    return True
