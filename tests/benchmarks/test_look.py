"""Blind pairs: sheets give nothing away, verdicts are counted for the right codec, and none may be missing."""

import argparse
import csv
import importlib
import json

import numpy as np
import pytest
from PIL import Image

from priorcodec.core.errors import ConfigError

from .conftest import ROOT, run

LEVELS = {"nano_pixel": 200, "vvc": 100, "preview": 60}


@pytest.fixture
def look(monkeypatch):
    """The script, with codecs that paint the whole image in one gray each."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("look")
    monkeypatch.setattr(module, "CROPS", {f"kodim{i:02}": ((0, 0), (16, 8)) for i in range(1, 7)})
    monkeypatch.setattr(module, "files", lambda pair, pixels, vvc: (b"a" * 10, b"b" * 11))
    monkeypatch.setattr(module, "decoded", lambda codec, data: np.full((400, 400, 3), LEVELS[codec], np.uint8))
    return module


@pytest.fixture
def made(look, tmp_path):
    for i in range(1, 7):
        Image.fromarray(np.full((400, 400, 3), 10 + i, np.uint8)).save(tmp_path / f"kodim{i:02}.png")
    words = {"folder": tmp_path / "looks", "kodak": tmp_path, "aigc": None, "vvc": None, "seed": 3}
    look.make(argparse.Namespace(**words, pairs=["nano_pixel/vvc", "nano_pixel/preview"], rates=[0.03, 0.06, 0.12]))
    return words["folder"]


def counted(look, folder, **more):
    words = {"folder": folder, "name": "blind", "judge": "first", "add": False, "results": folder / "results", **more}
    (folder / "results").mkdir(exist_ok=True)
    return json.loads(look.count(argparse.Namespace(**words)).read_text())


def verdicts(folder, choose):
    key = {row["sheet"]: row for row in json.loads((folder / "key.json").read_text())}
    rows = [{"sheet": sheet, "verdict": choose(row), "note": "n"} for sheet, row in key.items()]
    with (folder / "verdicts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["sheet", "verdict", "note"])
        writer.writeheader()
        writer.writerows(rows)


def test_every_image_once_per_pair_and_the_rates_evenly(look):
    pairs = [("a", "b"), ("a", "c")]
    images = [f"i{n}" for n in range(12)]
    planned = look.blind_pairs(pairs, [0.03, 0.06, 0.12], images, seed=0)
    assert len({(p.image, p.second) for p in planned}) == 24
    for _, second in pairs:
        rates = [p.bpp for p in planned if p.second == second]
        assert all(rates.count(rate) == 4 for rate in (0.03, 0.06, 0.12))
    assert planned != look.blind_pairs(pairs, [0.03, 0.06, 0.12], images, seed=1)
    assert planned == look.blind_pairs(pairs, [0.03, 0.06, 0.12], images, seed=0)


def test_sides_are_drawn_and_the_key_says_where(look, made):
    key = json.loads((made / "key.json").read_text())
    assert len(key) == 12 and {row["left"] == row["first"] for row in key} == {True, False}
    for row in key:
        sheet = np.array(Image.open(made / f"{row['sheet']}.png"))
        width = look.SIDE + look.GAP
        middle = look.BAR + look.SIDE // 2
        shown = [int(sheet[middle, column * width + 9, 0]) for column in range(3)]
        assert shown == [10 + int(row["image"][-2:]), LEVELS[row["left"]], LEVELS[row["right"]]]


def test_sheets_and_verdict_file_name_no_codec(made):
    text = (made / "verdicts.csv").read_text()
    assert "vvc" not in text and "nano" not in text and text.splitlines()[1] == "pair-01,,"
    assert {p.name for p in made.iterdir()} == {"key.json", "verdicts.csv", *(f"pair-{n:02}.png" for n in range(1, 13))}


def test_verdicts_are_counted_for_the_codec_that_stood_there(look, made):
    verdicts(made, lambda row: "left" if row["left"] == "vvc" else "right" if row["right"] == "vvc" else "equal")
    result = counted(look, made)
    assert [(s["b"], s["first"], s["second"], s["equal"]) for s in result["summary"]] == [
        *[("preview", 0, 0, 2)] * 3,
        *[("vvc", 0, 2, 0)] * 3,
    ]


def test_another_judge_is_counted_beside_the_first(look, made):
    verdicts(made, lambda row: "left" if row["left"] == "vvc" else "right" if row["right"] == "vvc" else "equal")
    counted(look, made)
    verdicts(made, lambda row: "left" if row["left"] == "nano_pixel" else "right")
    result = counted(look, made, judge="second", add=True)
    assert [(s["b"], s["verdicts"], s["first"], s["second"], s["equal"]) for s in result["summary"]] == [
        *[("preview", 4, 2, 0, 2)] * 3,
        *[("vvc", 4, 2, 2, 0)] * 3,
    ]
    assert [(s["b"], s["pairs"], s["pairs_first"], s["pairs_second"], s["judges"]) for s in result["summary"]] == [
        *[("preview", 2, 2, 0, 2)] * 3,
        *[("vvc", 2, 0, 0, 2)] * 3,  # the judges differ: tied
    ]
    assert "24 verdicts on 12 pairs" in result["note"] and "agree on 0 and prefer opposite sides on 6" in result["note"]
    with pytest.raises(ConfigError, match="'second' has judged pair-01 already"):
        counted(look, made, judge="second", add=True)


def test_the_count_becomes_a_table(look, made, tmp_path):
    verdicts(made, lambda row: "left")
    counted(look, made)
    page = tmp_path / "page.md"
    page.write_text("<!-- table:blind -->\n<!-- end -->\n")
    run("readme.py", "--readme", page, "--results", made / "results")
    assert page.read_text().count("| nano_pixel against vvc |") == 3 and "12 verdicts on 12 pairs" in page.read_text()


def test_how_likely_a_count_is_by_chance(look):
    assert look.sign_test(5, 2) == pytest.approx(58 / 128) and look.sign_test(0, 6) == pytest.approx(2 / 64)
    assert look.sign_test(3, 3) == 1 and look.sign_test(0, 0) == 1


def test_a_missing_verdict_is_one_line(look, made):
    with pytest.raises(ConfigError, match=r"pair-01, .*: no verdict"):
        counted(look, made)


def test_sheets_are_not_overwritten(look, made):
    with pytest.raises(ConfigError, match="holds sheets already"):
        look.make(argparse.Namespace(folder=made, kodak=None, aigc=None, vvc=None, seed=0, pairs=[], rates=[]))


def test_verdicts_can_be_asked_for(look, made, monkeypatch):
    answers = iter(["l", "x", "e", "q"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    look.judge(argparse.Namespace(folder=made))
    with (made / "verdicts.csv").open() as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == ["left", "equal", *[""] * 10]
