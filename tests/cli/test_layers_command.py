"""`priorcodec regions` and `edit` as a person meets them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from priorcodec.core import container
from priorcodec.core.image import io as image_io
from tests.cli.test_cli import quick
from tests.golden import layers

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
