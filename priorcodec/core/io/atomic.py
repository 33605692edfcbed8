"""Writing a file so that a reader sees the whole new content or the old one, never half: write beside, then rename or link.

`check_output` refuses an output before the work, `write(replace=False)` after it: another program may have been quicker.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import secrets
import stat
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from priorcodec.core.errors import ConfigError, PriorCodecError
from priorcodec.core.io.names import cut, printable

STDOUT = "-"
_END = ".part"


def _processes() -> str:
    """Identifies the machine and PID namespace: two machines, or two containers of one, may write into one shared folder."""
    with suppress(OSError):
        return platform.node() + os.readlink("/proc/self/ns/pid")
    return platform.node()


_HOST = f"{zlib.crc32(_processes().encode()):08x}"
_SHOWN = 60  # bytes of the file's own name in the temporary one
_MAX_LINKS = 40  # as Linux
_STREAMS = {"stdout": 1, "stderr": 2}
_KEPT: list[Any] = []  # standard output, where `print` goes elsewhere
_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """In here `print` writes to standard error, while "-" still is standard output."""
    _KEPT.append(_KEPT[-1] if _KEPT else sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _KEPT.pop()


def identity(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of a file, the same through symbolic and hard links; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def is_stdout(path: str | Path) -> bool:
    """Whether a path is standard output: "-", /dev/stdout, or a link there."""
    with suppress(OSError, ValueError):  # no possible name of a file: whoever writes it says so
        return _target(path) == _STREAMS["stdout"]
    return False


def make_folder(folder: Path) -> None:
    """Make a folder to write to, with those above it. Raises ConfigError: it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        taken = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is in the way, wanted a folder" if taken else error.strerror
        raise ConfigError(f"cannot make the folder {printable(folder)} ({reason}): choose another output") from error


def check_output(
    output: str | Path, inputs: Iterable[str | Path] = (), *, replace: bool, option: str = "--force"
) -> None:
    """Refuse an output before any work is done. Standard output always passes, and so do pipes and devices.

    Args:
        output: Where a file will be written.
        inputs: Files that are read.
        replace: Whether an existing file may be replaced; an input never may.
        option: The command line option that allows it, for the message.

    Raises:
        ConfigError: It is one of the inputs, or exists and may not be replaced.
    """
    if is_stdout(output):
        return
    found = identity(output)
    same = [path for path in inputs if found is not None and identity(path) == found]
    if same:
        raise ConfigError(
            f"cannot write {printable(output)}: it is the input {printable(same[0])} itself, give another -o"
        )
    if not replace and found is not None and os.path.isfile(output):
        raise ConfigError(f"{printable(output)} exists already: give {option} to replace it, or another output")


def write(path: str | Path, data: bytes, *, replace: bool = True) -> None:
    """Write `data` to `path` in one step, on the disk before it has its name.

    A link is written through and stays; an existing file keeps its mode, a new one follows the umask. "-" and
    /dev/stdout are standard output. What is no regular file (a pipe, a device) is written directly.

    Args:
        path: Where to.
        data: The whole content.
        replace: False to refuse a file that exists by the time all is written.

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
            _put(target, data, replace=replace)
    except OSError as error:
        raise PriorCodecError(f"cannot write {printable(path)}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL, or a character that the file system cannot hold
        raise PriorCodecError(f"cannot write {printable(path)}: not a valid file name") from error


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
    stream = {1: _KEPT[-1] if _KEPT else sys.stdout, 2: sys.stderr}.get(number)
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


def _put(target: Path, data: bytes, *, replace: bool) -> None:
    own = f"{_HOST}-{os.getpid()}-{threading.get_native_id()}-{secrets.token_hex(4)}"
    part = target.with_name(f".{cut(target.name, _SHOWN)}.{own}{_END}")
    _sweep(target.parent.absolute())
    before = os.stat(target) if target.exists() else None
    mode = 0o666 if before is None else stat.S_IMODE(before.st_mode)
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            if before is not None and os.name == "posix":
                with suppress(OSError):  # only the administrator may give a file away
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(part, target)
        else:
            _link(part, target)
    finally:
        part.unlink(missing_ok=True)


def _link(part: Path, target: Path) -> None:
    """Give a finished file its name unless another one has it. Raises PriorCodecError."""
    taken = f"{printable(target)} was written by another program meanwhile: nothing was replaced"
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise PriorCodecError(taken) from error
    except OSError as error:  # a file system without links
        if target.exists():
            raise PriorCodecError(taken) from error
        os.replace(part, target)


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left in `folder`; once per process and folder."""
    if os.name != "posix":  # elsewhere signal 0 is no question
        return
    for part in folder.glob(f".*.{_HOST}-*{_END}"):
        pid = part.name.removesuffix(_END).rpartition(f".{_HOST}-")[2].partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            with suppress(OSError):  # another user's, in a folder like /tmp
                part.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # or no number of a process
        return False
    except OSError:  # a process of another user
        return True
    return True
