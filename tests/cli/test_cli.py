"""The command line as a person meets it, in its own process where exit status and output matter."""

import json
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from priorcodec import cli
from priorcodec.core.errors import PriorCodecError
from priorcodec.core.image import io as image_io
from tests.core.test_codec import DEMO


def command(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "priorcodec.cli", *map(str, words)], capture_output=True, text=True, cwd=cwd, check=False
    )


def quick(*words):
    """In this process: -> (exit status, stdout, message of the error)."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    if isinstance(result.exception, PriorCodecError):
        return 2, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path):
    pixels = image_io.load(DEMO).pixels
    (tmp_path / "in").mkdir()
    image_io.save(pixels[:70, :90], tmp_path / "in" / "a.png")
    image_io.save(pixels[100:180, 50:160], tmp_path / "in" / "b.jpg")
    return tmp_path


def test_encode_decode_preview_info_of_a_folder(folder):
    status, out, _ = quick("encode", folder / "in", "-o", folder / "gic", "-q", 2, "--json")
    rows = json.loads(out)
    assert status == 0 and [row["width"] for row in rows] == [90, 110]
    assert rows[0]["bytes"] == (folder / "gic" / "a.gic").stat().st_size
    assert quick("preview", folder / "gic")[0] == 0
    assert quick("decode", folder / "gic", "backbone=toy")[0] == 0
    for name in ("a.preview.png", "a.toy.png", "b.toy.png"):
        assert (folder / "gic" / name).exists()
    status, out, _ = quick("info", folder / "gic" / "a.gic", "--json")
    info = json.loads(out)[0]
    assert info["header_bytes"] + info["string_bytes"] == info["bytes"] == rows[0]["bytes"]
    assert (info["quality"], info["width"], info["height"]) == (2.0, 90, 70)


def test_steps_and_renorm_as_options_and_as_words(folder):
    source, file = folder / "in" / "a.png", folder / "a.gic"
    assert quick("encode", source, "-o", folder / "plain.gic", "-q", 1)[0] == 0
    assert quick("encode", source, "-o", file, "-q", 1, "--statistics")[0] == 0
    assert file.stat().st_size - (folder / "plain.gic").stat().st_size in (11, 12)
    shown = quick("info", file)[1]
    assert "type 1: 8 bytes" in shown and "Cb" in shown
    dial = {"option": ("--steps", 2, "--renorm", "written"), "word": ("steps=2", "renorm=written"), "off": ()}
    for name, words in dial.items():
        assert quick("decode", file, "backbone=toy", *words, "-o", folder / f"{name}.png")[0] == 0
    option, word, off = ((folder / f"{name}.png").read_bytes() for name in dial)
    assert option == word != off
    status, _, message = quick(
        "decode", folder / "plain.gic", "backbone=toy", "--renorm", "written", "-o", folder / "x.png"
    )
    assert status == 2 and "encode --statistics" in message and "\n" not in message
    strength = {"soft": ("--blend", 0.25), "word": ("blend=0.25",)}
    for name, words in strength.items():
        assert quick("decode", file, "backbone=toy", *words, "-o", folder / f"strength-{name}.png")[0] == 0
    soft, word = ((folder / f"strength-{name}.png").read_bytes() for name in strength)
    assert soft == word != off
    status, _, message = quick("decode", file, "--blend", -1)
    assert status == 2 and "blend=-1: wanted 0" in message
    status, _, message = quick("decode", file, "--steps", 9)
    assert status == 2 and "1 to 8" in message


def test_a_folder_run_goes_on_past_a_bad_file(folder):
    (folder / "in" / "c.png").write_bytes(b"no image")
    status, out, errors = quick("encode", folder / "in", "-o", folder / "gic")
    assert status == 1
    assert {path.name for path in (folder / "gic").iterdir()} == {"a.gic", "b.gic"}
    assert "1 of 3 files failed" in errors and "c.png" in errors


def test_nothing_is_overwritten_without_force(folder):
    source = folder / "in" / "a.png"
    assert quick("encode", source)[0] == 0
    status, _, message = quick("encode", source)
    assert status == 2 and "--force" in message
    assert quick("encode", source, "--force")[0] == 0


@pytest.mark.parametrize(
    "words,part",
    [
        (("encode", "missing.png"), "no such file"),
        (("encode", "-q", "9", DEMO), "quality is 9"),
        (("decode", DEMO), "not a .gic file"),
        (("decode", DEMO, "backbone=nano_unt"), "nano_unet"),
        (("decode", DEMO, "dtipe=float32"), "dtype"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, part, tmp_path):
    status, _, message = quick(*words, "-o", tmp_path / "out.png")
    assert status == 2 and part in message and "\n" not in message
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_a_real_process_shows_no_traceback(tmp_path):
    (tmp_path / "x.gic").write_bytes(b"GIC\x01 nonsense")
    result = command("info", "x.gic", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_backbones_and_plugins_list_ours():
    rows = {row["name"]: row for row in json.loads(quick("backbones", "--json")[1])}
    assert {"nano_unet", "nano_dit", "toy", "sd15", "sdxl", "pixart"} <= set(rows)
    assert rows["nano_unet"]["weights"] == "here" and rows["nano_unet"]["adapters"] == "default"
    assert rows["sd15"]["adapters"] == "none"
    assert "859.52M" in quick("backbones", "sd15")[1]
    names = [
        row["name"] for row in json.loads(quick("plugins", "--json", "--no-plugin", "sdxl")[1]) if not row["error"]
    ]
    assert "nano_unet" in names
    assert "sdxl" not in {row["name"] for row in json.loads(quick("backbones", "--json", "--no-plugin", "sdxl")[1])}


@pytest.mark.parametrize("own", [None, "0"])
def test_huge_pages_are_asked_for_unless_the_user_says_otherwise(own, monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", own or "")  # so that it is put back
    if own is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    monkeypatch.setattr(cli, "app", lambda: None)
    cli.main()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == (own or "1")


def test_help_needs_no_heavy_import():
    code = "import sys, priorcodec.cli; print([m for m in ('torch', 'PIL', 'numpy', 'omegaconf') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_help_is_quick():
    best = min(_timed("--help") for _ in range(5))
    assert best < 0.3


def _timed(*words):
    started = time.perf_counter()
    assert command(*words).returncode == 0
    return time.perf_counter() - started


def test_demo(folder):
    status, out, _ = quick("demo", "-o", folder / "demo", "--image", folder / "in" / "a.png", "--backbone", "toy")
    assert status == 0 and "AVIF" in out
    assert (folder / "demo" / "montage.png").exists()
    assert len(list((folder / "demo").glob("*.gic"))) == 3


def test_a_rate_target_for_every_image_of_a_folder(folder):
    rows = {}
    for option, value in (("--bytes", 130), ("--max-bytes", 100_000), ("--bpp", 0.15)):
        target = folder / option.strip("-")
        status, out, errors = quick("encode", folder / "in", "-o", target, option, value, "--json")
        assert status == 0 and not errors
        rows[option] = json.loads(out)
    assert all(0.95 * 130 <= row["bytes"] <= 130 for row in rows["--bytes"])
    assert all(0.14 < row["bpp"] <= 0.15 for row in rows["--bpp"])
    assert all(row["quality"] == 7 for row in rows["--max-bytes"])
    found = rows["--bytes"][0]
    assert quick("encode", found["input"], "-o", folder / "a.gic", "-q", found["quality"])[0] == 0
    assert (folder / "a.gic").read_bytes() == (folder / "bytes" / "a.gic").read_bytes()


def test_a_rate_target_out_of_reach_names_the_range(folder):
    source, target = folder / "in" / "a.png", folder / "a.gic"
    status, _, message = quick("encode", source, "-o", target, "--bytes", 30)
    assert status == 2 and "wanted 30 bytes" in message and "a.png" in message and "\n" not in message
    assert not target.exists()
    status, _, errors = quick("encode", source, "-o", target, "--bpp", 9)
    assert status == 0 and "highest quality" in errors and errors.count("\n") == 1
    status, _, message = quick("encode", source, "--bpp", 1, "--quality", 2)
    assert status == 2 and "got --quality and --bpp" in message
    status, _, message = quick("encode", source, "--max-bytes", 0)
    assert status == 2 and "above 0" in message
