"""Names of files: printable, and cut to a number of bytes."""

import os

import pytest

from priorcodec.core.io import names


def test_printable():
    assert names.printable("plain ß 漢") == "plain ß 漢"
    assert names.printable("a\nb\x1b[31m\udcff") == "a?b?[31m?"
    assert names.printable("x" * 400) == "x" * 300 + "..." and names.printable("abc", 2) == "ab..."


@pytest.mark.parametrize("name", ["x" * 300, "ß" * 127, "漢" * 85, b"\xff".decode("utf-8", "surrogateescape") * 255])
@pytest.mark.parametrize("limit", [0, 1, 60, 1000])
def test_cut_keeps_whole_characters(name, limit):
    short = names.cut(name, limit)
    assert name.startswith(short) and len(os.fsencode(short)) <= limit
    assert short == name or len(os.fsencode(name[: len(short) + 1])) > limit


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
