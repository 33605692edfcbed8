"""Writing a file: the whole new content or the old one, whatever happens meanwhile; one line when it cannot be."""

import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from priorcodec import PriorCodecError
from priorcodec.core.io import atomic

OLD, NEW = b"old" * 1000, b"new" * 40_000


@contextmanager
def largest_file(size):
    """What a full disk does, without one: writing past `size` bytes fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 32 KiB with an old file on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def refused(path, reason):
    with pytest.raises(PriorCodecError, match=reason) as caught:
        atomic.write(path, NEW)
    assert str(caught.value).startswith(f"cannot write {path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("before", [None, OLD])
def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "a.gic"
    if before:
        atomic.write(path, before)
    with largest_file(10_000):
        refused(path, "File too large")
    assert [p.name for p in tmp_path.iterdir()] == ([path.name] if before else [])
    assert before is None or path.read_bytes() == before
    atomic.write(path, NEW)
    assert path.read_bytes() == NEW


def test_a_full_disk_leaves_what_was_there(full_disk):
    atomic.write(full_disk / "a.gic", OLD)
    refused(full_disk / "a.gic", "No space left on device")
    refused(full_disk / "b.gic", "No space left on device")
    assert [p.name for p in full_disk.iterdir()] == ["a.gic"] and (full_disk / "a.gic").read_bytes() == OLD


def test_no_folder_a_folder_and_a_long_name(tmp_path):
    refused(tmp_path / "none" / "a", "No such file")
    atomic.write(tmp_path / ("x" * 255), NEW)  # the name beside it is no longer than that
    assert [p.stat().st_size for p in tmp_path.iterdir()] == [len(NEW)]


def test_a_pipe_is_written_directly(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    atomic.write(tmp_path / "pipe", NEW)
    reader.join()
    assert read == [NEW]


KILLED = """
import os, signal, sys
from pathlib import Path
from priorcodec.core.io import atomic
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the worst moment: all is written, nothing is renamed
atomic.write(Path(sys.argv[1]), b"half")
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    path = tmp_path / "a.gic"
    atomic.write(path, OLD)
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -signal.SIGKILL
    left = [p for p in tmp_path.iterdir() if p != path]
    assert len(left) == 1 and left[0].name.startswith(".a.gic.") and left[0].suffix == ".part"
    assert path.read_bytes() == OLD
    ours = tmp_path / f".b.gic.{atomic._HOST}-{os.getpid()}-1.part"  # of a process that lives
    other = tmp_path / ".c.gic.0badcafe-999999999-1.part"  # of another machine
    for kept in (ours, other):
        kept.write_bytes(b"being written")
    atomic._sweep.cache_clear()
    atomic.write(path, NEW)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, ours.name, other.name])


def test_many_threads_write_one_file_whole(tmp_path):
    path, contents = tmp_path / "a", [bytes([i]) * 50_000 for i in range(8)]
    threads = [threading.Thread(target=atomic.write, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and len(list(tmp_path.iterdir())) == 1
