"""`priorcodec regions` and `edit` as a person meets them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from priorcodec.core import container
from priorcodec.core.image import io as image_io
from tests.cli.test_streams import run
from tests.golden import layers
from tests.helpers import quick

FILES = {name: data for name, (data, _) in layers.golden().items()}


@pytest.fixture
def folder(tmp_path):
    for name in ("alone", "beside-generated", "derived-generated"):
        (tmp_path / f"{name}.gic").write_bytes(FILES[name])
    return tmp_path


@pytest.mark.parametrize(("name", "says"), [("alone", "written"), ("derived-generated", "derived from the latent")])
def test_regions_table_and_image(folder, name, says):
    status, out, _ = quick("regions", folder / f"{name}.gic", "-o", folder / "map.png")
    assert status == 0 and says in out and "mean_color" in out
    rows = json.loads(quick("regions", folder / f"{name}.gic", "--json")[1])
    assert sum(row["area_percent"] for row in rows) == pytest.approx(100, abs=0.1 * len(rows))
    assert all(len(row["values"]) == 16 for row in rows)
    content = container.unpack(FILES[name])
    pixels = image_io.load(folder / "map.png").pixels
    assert pixels.shape[:2] == (content.height, content.width)
    shown = {"#" + bytes(color.tolist()).hex() for color in np.unique(pixels.reshape(-1, 3), axis=0)}
    assert shown == {row["label"] for row in rows}


def test_regions_needs_no_torch(folder):
    code = "import sys; sys.modules['torch'] = None; sys.argv.insert(1, 'regions'); from priorcodec.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "alone.gic"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "regions, written" in done.stdout, done.stderr


def test_edit_without_and_with_a_latent(folder):
    for name, latent in (("alone", "none"), ("beside-generated", "coded again")):
        source, target = folder / f"{name}.gic", folder / f"{name}-blue.gic"
        before = json.loads(quick("regions", source, "--json")[1])
        status, out, error = quick("edit", source, "--region", 0, "--recolor", "#2040d0", "-o", target)
        assert status == 0 and f"latent: {latent}" in out, error
        after = json.loads(quick("regions", target, "--json")[1])
        assert [row["area_percent"] for row in after] == [row["area_percent"] for row in before]
        blue = [int(row["mean_color"][5:], 16) - int(row["mean_color"][1:3], 16) for row in (before[0], after[0])]
        assert blue[1] > 100 and blue[1] > blue[0]
    assert quick("preview", target, "-o", folder / "x.png")[0] == 0
    words = ("edit", source, "--region", 0, "--texture-from", folder / "alone.gic", "-o", target)
    assert quick(*words)[0] == 2 and quick(*words, "--force", "--drop-latent")[0] == 0
    assert container.unpack(target.read_bytes()).string is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--region", 0), "wanted one of them"),
        (("--region", 0, "--recolor", "red", "--texture-from", "x.gic"), "wanted one of them"),
        (("--region", 99, "--recolor", "red"), "region is 99, wanted 0 to"),
        (("--region", 0, "--recolor", "reddish"), "color 'reddish' is no color"),
        (("--region", 0, "--texture-from", "missing.gic"), "missing.gic cannot be read"),
        (("--region", 0, "--recolor", "red", "--from-region", 1), "--from-region without --texture-from"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(folder, words, message):
    status, _, error = quick("edit", folder / "alone.gic", "-o", folder / "out.gic", *words)
    assert status == 2 and message in error and "\n" not in error.strip()
    assert not (folder / "out.gic").exists()


def test_an_edit_never_replaces_what_it_reads(folder):
    source, link, other = folder / "alone.gic", folder / "link.gic", folder / "beside-generated.gic"
    link.symlink_to(source)
    before = {path: path.read_bytes() for path in (source, other)}
    change = ("--region", "0", "--force")
    for words in (
        (source, *change, "--recolor", "red", "-o", source),
        (link, *change, "--recolor", "red", "-o", source),
        (source, *change, "--texture-from", other, "-o", other),
    ):
        status, _, said = quick("edit", *words)
        assert status == 2 and "the input" in said
    status, _, said = quick("edit", source, *change, "--recolor", "red", "-o", folder / "new.txt")
    assert status == 2 and "ending in .gic" in said
    assert {path: path.read_bytes() for path in before} == before


def test_edit_and_regions_through_standard_output(folder, monkeypatch):
    monkeypatch.chdir(folder)
    status, data, said = run("edit", "alone.gic", "--region", "0", "--recolor", "red", "-o", "-")
    assert status == 0 and container.unpack(data).string is None and "region 0 edited" in said
    status, image, said = run("regions", "alone.gic", "-o", "-")
    assert status == 0 and image_io.load(image).pixels.size and "mean_color" in said
    status, image, said = run("regions", "alone.gic", "-o", "-", "--json")
    assert status == 0 and image_io.load(image).pixels.size and json.loads(said)
    status, _, said = quick("edit", "alone.gic", "--region", "0", "--recolor", "red", "-o", "new/folder/a.gic")
    assert status == 0 and container.unpack((folder / "new" / "folder" / "a.gic").read_bytes())


def test_the_limit_of_pixels_and_the_name_in_errors(folder):
    recolored = ("--region", "0", "--recolor", "red", "-o", folder / "new.gic")
    for words in (
        ("edit", folder / "alone.gic", *recolored, "--max-pixels", "5"),
        ("regions", folder / "alone.gic", "--max-pixels", "5"),
    ):
        status, _, said = quick(*words)
        assert status == 2 and "more than 5 pixels" in said and "alone.gic" in said
    (folder / "no.gic").write_bytes(b"nothing of the kind")
    taken = ("--region", "0", "--texture-from", folder / "no.gic", "-o", folder / "new.gic")
    for words in (("edit", folder / "no.gic", *recolored), ("edit", folder / "alone.gic", *taken)):
        status, _, said = quick(*words)
        assert status == 2 and "no.gic" in said and "alone" not in said
    assert not (folder / "new.gic").exists()
