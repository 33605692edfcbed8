"""Writing a file: the whole new content or the old one, whatever happens meanwhile; one line when it cannot be."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from priorcodec import ConfigError, PriorCodecError
from priorcodec.core.io import atomic
from tests.helpers import largest_file

OLD, NEW = b"old" * 1000, b"new" * 40_000


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


LEGAL = [
    "x" * 232,
    "ß" * 116,
    "漢" * 84,
    "😀" * 63,
    "x" * 255,
    "ü" * 127,
    "a b\nc",
    b"caf\xe9\xff".decode("utf-8", "surrogateescape"),
]


@pytest.mark.parametrize("name", LEGAL)
def test_every_legal_name(tmp_path, name):
    assert len(os.fsencode(name)) <= 255
    atomic.write(tmp_path / name, OLD)
    atomic.write(tmp_path / name, NEW)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == NEW


def test_names_that_no_file_can_have(tmp_path):
    for name, reason in (
        ("x" * 256, "File name too long"),
        ("a\0b", "not a valid file name"),
        ("\ud800", "not a valid file name"),
    ):
        with pytest.raises(PriorCodecError, match=reason) as caught:
            atomic.write(f"{tmp_path}/{name}", NEW)
        assert str(caught.value).isprintable()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_is_written_through_and_stays(tmp_path, relative):
    (tmp_path / "folder").mkdir()
    real, link, second = tmp_path / "folder" / "real", tmp_path / "link", tmp_path / "second"
    real.write_bytes(OLD)
    real.chmod(0o600)
    link.symlink_to("folder/real" if relative else real)
    second.symlink_to("link")
    atomic.write(second, NEW)
    assert link.is_symlink() and second.is_symlink() and real.read_bytes() == NEW
    assert real.stat().st_mode & 0o777 == 0o600
    real.unlink()
    atomic.write(link, OLD)  # a dangling link is the name of a file to be made
    assert link.is_symlink() and real.read_bytes() == OLD
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "second"] and os.listdir(tmp_path / "folder") == ["real"]


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused(tmp_path / "a", "links")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o444, 0o666])
def test_an_existing_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "a"
    path.write_bytes(OLD)
    path.chmod(mode)
    atomic.write(path, NEW)
    assert path.stat().st_mode & 0o7777 == mode and path.read_bytes() == NEW


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        atomic.write(tmp_path / "a", NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_owner_stays_too(tmp_path):
    if os.getuid():
        pytest.skip("only root may give files away")
    path = tmp_path / "a"
    path.write_bytes(OLD)
    os.chown(path, 1234, 2345)
    path.chmod(0o600)
    atomic.write(path, NEW)
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 2345, 0o600)


WRITES = """
import sys
from priorcodec.core.io import atomic
print("first")
atomic.write(sys.argv[1], b"second\\xff")
print("third")
"""


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_to_a_pipe_and_to_a_file(tmp_path, target):
    if target == "link":
        target = str(tmp_path / "link")
        os.symlink("/dev/stdout", target)
    command = [sys.executable, "-c", WRITES, target]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    assert said == b"first\nsecond\xffthird\n"
    file = tmp_path / "out"
    file.write_bytes(b"before ")
    with file.open("ab") as out:  # as the shell's >>
        subprocess.run(command, stdout=out, check=True)
    assert file.read_bytes() == b"before first\nsecond\xffthird\n"


def test_standard_error_and_other_streams(tmp_path):
    said = subprocess.run([sys.executable, "-c", WRITES, "/dev/stderr"], capture_output=True, check=True)
    assert said.stderr == b"second\xff" and said.stdout == b"first\nthird\n"
    read, write = os.pipe()
    atomic.write(f"/dev/fd/{write}", b"through a pipe")
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert file.read() == b"through a pipe"


def test_a_reader_that_left_is_one_line():
    code = "import sys\n" + WRITES.replace('b"second\\xff"', "bytes(10**6)").replace(
        'print("first")', "import priorcodec.core.errors as e"
    ).replace("atomic.write", "try: atomic.write").replace(
        'print("third")', "except e.PriorCodecError as x: print(x, file=sys.stderr)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    said = process.stderr.read().decode()
    process.wait()
    assert said.splitlines()[0] == "cannot write -: Broken pipe"


def test_devices_and_folders(tmp_path):
    atomic.write("/dev/null", NEW)
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null")
    refused(tmp_path, "Is a directory")


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


def test_a_name_with_the_number_of_no_process_stops_no_write(tmp_path):
    planted = tmp_path / f".a.gic.{atomic._HOST}-{10**20}-1.part"
    planted.write_bytes(b"")
    atomic.write(tmp_path / "a.gic", NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gic"]


def test_what_cannot_be_removed_stops_no_write(tmp_path, monkeypatch):
    """As in /tmp, where another user's file cannot be removed."""
    (tmp_path / f".a.gic.{atomic._HOST}-999999999-1.part").write_bytes(b"of another user")

    def unlink(self, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(atomic.Path, "unlink", unlink)
    atomic._sweep.cache_clear()
    atomic._sweep(tmp_path)


def test_many_threads_write_one_file_whole(tmp_path):
    path, contents = tmp_path / "a", [bytes([i]) * 50_000 for i in range(8)]
    threads = [threading.Thread(target=atomic.write, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    path, fsync = tmp_path / "a.gic", os.fsync

    def slow(number):
        fsync(number)
        path.write_bytes(OLD)

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(PriorCodecError, match="another program"):
        atomic.write(path, NEW, replace=False)
    assert path.read_bytes() == OLD and [p.name for p in tmp_path.iterdir()] == ["a.gic"]
    path.unlink()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    with pytest.raises(PriorCodecError, match="another program"):
        atomic.write(path, NEW, replace=False)
    monkeypatch.setattr(os, "fsync", fsync)
    path.unlink()
    atomic.write(path, NEW, replace=False)
    assert path.read_bytes() == NEW and len(list(tmp_path.iterdir())) == 1


def test_of_many_writers_that_replace_nothing_one_wins(tmp_path):
    path, contents, failed = tmp_path / "a", [bytes([i]) * 50_000 for i in range(8)], []

    def write(content):
        try:
            atomic.write(path, content, replace=False)
        except PriorCodecError:
            failed.append(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 7 and path.read_bytes() in set(contents) - set(failed) and len(list(tmp_path.iterdir())) == 1


def test_an_output_is_checked_before_the_work(tmp_path):
    path, link, hard, new = (tmp_path / name for name in ("a", "link", "hard", "new"))
    path.write_bytes(OLD)
    link.symlink_to(path)
    os.link(path, hard)
    for same in (path, link, hard, tmp_path / "." / "a"):
        with pytest.raises(ConfigError, match="the input"):
            atomic.check_output(same, [new, path], replace=True)
    with pytest.raises(ConfigError, match="exists already: give -f"):
        atomic.check_output(path, replace=False, option="-f")
    atomic.check_output(path, [new], replace=True)
    for free in (new, "-", "/dev/null"):
        atomic.check_output(free, [path], replace=False)


def test_other_process_numbers_have_another_name(monkeypatch):
    before = atomic._processes()
    monkeypatch.setattr(os, "readlink", lambda _: "pid:[1]")
    assert atomic._processes() != before
    monkeypatch.setattr(os, "readlink", lambda _: (_ for _ in ()).throw(FileNotFoundError))
    assert before.startswith(atomic._processes())
