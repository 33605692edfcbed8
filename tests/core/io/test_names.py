"""Names of files: printable, short enough, and compared for being one file."""

import os

import pytest

from priorcodec.core.io import names


def test_printable():
    assert names.printable("plain ß 漢") == "plain ß 漢"
    assert names.printable("a\nb\x1b[31m\udcff") == "a?b?[31m?"
    assert names.printable("x" * 400) == "x" * 300 + "..." and names.printable("abc", 2) == "ab..."


@pytest.mark.parametrize("stem", ["a", "x" * 251, "ß" * 125])
def test_a_name_that_fits_is_kept(stem, tmp_path):
    assert names.fit_name(stem, ".gic", tmp_path) == stem + ".gic"


@pytest.mark.parametrize(
    "stem", ["x" * 252, "ß" * 127, "漢" * 85, "x" * 5000, b"\xff".decode("utf-8", "surrogateescape") * 255]
)
def test_a_name_that_is_too_long_is_cut_and_stays_unique(stem, tmp_path):
    name = names.fit_name(stem, ".gic", tmp_path)
    assert len(os.fsencode(name)) <= 255 and name.endswith(".gic") and name.startswith(stem[:20])
    (tmp_path / name).write_bytes(b"")
    assert name == names.fit_name(stem, ".gic", tmp_path / "not made yet")
    assert name != names.fit_name(stem + "x", ".gic", tmp_path)


def test_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"")
    os.link("a", "hard")
    os.symlink("a", "soft")
    os.symlink("missing", "dangling")
    for other in ("a", "./a", tmp_path / "a", "hard", "soft", f"../{tmp_path.name}/a"):
        assert names.same_file("a", other)
    assert names.same_file("missing", "./missing") and names.same_file("dangling", "missing")
    for one, other in (("a", "b"), ("a", "missing"), ("-", "-"), ("a", "-"), ("a\0", "a")):
        assert not names.same_file(one, other)
