"""Folder runs that are killed, run out of disk, or are started again: old or new files, never half of one, nothing done twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from priorcodec.core.image import io as image_io
from tests.helpers import DEMO, largest_file, quick

DRIVER = Path(__file__).parent / "crash_driver.py"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = image_io.load(DEMO).pixels
    for i in range(3):
        image_io.save(pixels[40 * i : 40 * i + 60, : 70 + i], tmp_path / "in" / f"{i}.png")
    return tmp_path


@pytest.fixture
def coded(folder):
    assert quick("encode", folder / "in", "-o", folder / "gic", "-q", 1)[0] == 0
    return folder


def killed(folder, command, kills, seed, record_property):
    words = [sys.executable, DRIVER, folder, command, str(kills), str(seed)]
    path = os.pathsep.join([str(DRIVER.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    record_property("tries", found["kills"])
    assert found["kills"] >= kills and found["finished"], found
    assert (found["wrong"], found["strange"], found["left_at_the_end"]) == (0, 0, 0), found
    return found


def test_a_few_kills(folder, record_property):
    killed(folder, "encode", 4, 1, record_property)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command, kills", [("encode", 100), ("decode", 60), ("preview", 40)])
def test_two_hundred_kills(coded, command, kills, record_property):
    if command != "encode":
        shutil.rmtree(coded / "in")
        (coded / "gic").rename(coded / "in")
    found = killed(coded, command, kills, 2, record_property)
    assert found["between"] > 0, "no kill fell between two files: the test looks at nothing"


@pytest.mark.parametrize("command", ["encode", "preview"])
def test_no_room_for_the_output_is_one_line_and_nothing_half_written(coded, command):
    source = coded / "big.png"
    image_io.save(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8), source)
    if command == "preview":
        assert quick("encode", source, "-q", 7)[0] == 0
        source = coded / "big.gic"
    (coded / "out").mkdir()
    with largest_file(64):
        status, _, message = quick(command, source, "-o", coded / "out")
    assert status == 2 and "File too large" in message and "\n" not in message
    assert not list((coded / "out").iterdir())


def test_a_full_disk_in_a_folder_run_names_every_file(coded, full_disk):
    for i in range(3):
        image_io.save(
            np.random.default_rng(i).integers(0, 256, (160, 160, 3), dtype=np.uint8), coded / "in" / f"{i}.png"
        )
    shutil.rmtree(coded / "gic")
    assert quick("encode", coded / "in", "-o", coded / "gic", "-q", 7)[0] == 0
    (full_disk / "filler").write_bytes(bytes(20_000))
    status, _, errors = quick("preview", coded / "gic", "-o", full_disk)
    assert status == 1 and "3 of 3 files failed" in errors and errors.count("No space left on device") == 3
    assert [p.name for p in full_disk.iterdir()] == ["filler"]


def times(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


def rows(*words):
    status, out, _ = quick(*words, "--json")
    assert status == 0
    return json.loads(out)


def test_encode_again_does_only_what_is_missing_or_differs(coded):
    words = ("encode", coded / "in", "-o", coded / "gic", "-q", 1, "--skip-existing")
    before = times(coded / "gic")
    assert [row.get("skipped") for row in rows(*words)] == [True] * 3
    assert times(coded / "gic") == before
    (coded / "gic" / "1.gic").unlink()
    assert [row.get("skipped") for row in rows(*words)] == [True, None, True]
    assert "up to date" in quick(*words)[1]
    files = {p.name: p.read_bytes() for p in (coded / "gic").iterdir()}

    def differs(reason, *more, count=1):
        status, _, errors = quick(*words, *more)
        assert status == 1 and errors.count(reason) == count and errors.count("--force") == count, errors
        made = rows(*words, *more, "--force")
        assert sum("skipped" not in row for row in made) == count
        assert quick(*words, "--force")[0] == 0
        assert {p.name: p.read_bytes() for p in (coded / "gic").iterdir()} == files

    (coded / "gic" / "0.gic").write_bytes(b"GIC\1 half")
    differs("0.gic is no readable coded file")
    data = bytearray(files["2.gic"])
    data[-4] ^= 1  # in the low byte of the check: damage, and not the id of another encoder
    (coded / "gic" / "2.gic").write_bytes(bytes(data))
    differs("2.gic is no readable coded file")
    shutil.copyfile(coded / "gic" / "1.gic", coded / "gic" / "0.gic")
    differs("0.gic is of an image of another size")
    os.utime(coded / "gic" / "1.gic", (1, 1))
    differs("1.gic is older than the image")
    differs("has statistics or lacks them", "--statistics", count=3)
    status, _, errors = quick("encode", coded / "in", "-o", coded / "gic", "-q", 2, "--skip-existing")
    assert status == 1 and errors.count("has quality 1, not 2") == 3


def test_a_wanted_size_is_a_limit_for_what_is_there(coded):
    words = ("encode", coded / "in", "-o", coded / "gic", "--skip-existing")
    assert all(row.get("skipped") for row in rows(*words, "--target-bytes", 100_000))
    sizes = sorted(path.stat().st_size for path in (coded / "gic").iterdir())
    status, _, errors = quick(*words, "--target-bytes", sizes[-1] - 1)
    assert status == 1 and f"{sizes[-1]} bytes, more than {sizes[-1] - 1}" in errors


@pytest.mark.parametrize("command", ["preview", "decode"])
def test_images_again_only_of_another_file_or_other_settings(coded, command):
    words = (command, coded / "gic", *(["--backbone", "toy"] if command == "decode" else []), "-o", coded / "png")
    assert [row.get("skipped") for row in rows(*words, "--skip-existing")] == [None] * 3
    before = times(coded / "png")
    assert [row.get("skipped") for row in rows(*words, "--skip-existing")] == [True] * 3
    assert times(coded / "png") == before
    if command == "decode":
        status, _, errors = quick(*words, "--steps", 2, "--skip-existing")
        assert status == 1 and errors.count("was not made of this file with these settings") == 3
    assert quick("encode", coded / "in" / "0.png", "-o", coded / "gic", "-q", 3, "--force")[0] == 0
    status, _, errors = quick(*words, "--skip-existing")
    assert status == 1 and "1 of 3 files failed" in errors and "0.gic" in errors
    png = coded / "png" / ("1.toy.png" if command == "decode" else "1.preview.png")
    png.write_bytes(png.read_bytes()[:-40])
    made = rows(*words, "--skip-existing", "--force")
    assert [row.get("skipped") for row in made] == [None, None, True]


def test_max_pixels_on_every_command(coded):
    for words in (
        ("encode", coded / "in" / "0.png", "-o", coded / "x.gic"),
        ("decode", coded / "gic" / "0.gic", "--backbone", "toy", "-o", coded / "x.png"),
        ("preview", coded / "gic" / "0.gic", "-o", coded / "y.png"),
        ("info", coded / "gic" / "0.gic"),
    ):
        status, _, message = quick(*words, "--max-pixels", 4199)
        assert status == 2 and "70x60" in message and "more than 4199 pixels" in message and "\n" not in message
        assert quick(*words, "--max-pixels", 128 * 64)[0] == 0  # its padded size
    assert "max_pixels=0: wanted 1 or more" in quick("preview", coded / "gic", "--max-pixels", 0)[2]
