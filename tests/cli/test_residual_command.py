"""Files with a residual layer at the command line: written, shown, read in part, and kept by --skip-existing."""

import json

import pytest

from priorcodec import open_session
from priorcodec.core import container
from priorcodec.core.errors import ConfigError
from priorcodec.core.image import io as image_io
from tests.cli.test_streams import run
from tests.helpers import DEMO


@pytest.fixture
def folder(tmp_path, monkeypatch):
    image_io.save(image_io.load(DEMO).pixels[:96, :96], tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_read_in_whole_and_in_part(folder):
    assert run("encode", "a.png", "-q", "5", "-o", "plain.gic")[0] == 0
    assert run("encode", "a.png", "-q", "5", "--layers", "latent,residual", "-o", "more.gic")[0] == 0
    shown = json.loads(run("info", "more.gic", "plain.gic", "--json")[1])
    assert [row["layers"] for row in shown] == ["latent, residual", "latent"]
    assert "residual " in shown[0]["segments"]
    data = (folder / "more.gic").read_bytes()
    (folder / "cut.gic").write_bytes(data[:-20])
    assert run("preview", "more.gic", "plain.gic")[0] == 0
    assert run("preview", "more.gic", "--layers", "latent", "-o", "part.png")[0] == 0
    assert run("preview", "cut.gic", "--layers", "latent", "-o", "cut.png")[0] == 0
    read = {name: image_io.load(f"{name}.png").pixels for name in ("more.preview", "plain.preview", "part", "cut")}
    assert (read["part"] == read["plain.preview"]).all() and (read["cut"] == read["plain.preview"]).all()
    original = image_io.load("a.png").pixels.astype(float)
    errors = [((read[name] - original) ** 2).mean() for name in ("more.preview", "plain.preview")]
    assert errors[0] < 0.8 * errors[1]
    status, _, text = run("preview", "cut.gic")
    assert status == 2 and "damaged or cut short" in text


def test_a_backbone_decodes_the_refined_features(folder):
    pixels = image_io.load("a.png").pixels
    with open_session("toy") as session, open_session("toy", layers="latent") as latent:
        plain, layered = session.encode(pixels, 4), session.encode(pixels, 4, layers=["latent", "residual"])
        assert len(layered) > len(plain) and layered.quality == 4
        assert (latent.decode(layered, output="np") == latent.decode(plain, output="np")).all()
        assert (session.decode(layered, output="np") != latent.decode(layered, output="np")).any()


def test_skip_existing_sees_layers(folder):
    words = ("encode", "a.png", "-q", "3", "--skip-existing")
    assert run(*words)[0] == 0
    before = (folder / "a.gic").read_bytes()
    status, _, text = run(*words, "--residual", "5")
    assert status == 2 and "has layers latent" in text and (folder / "a.gic").read_bytes() == before
    assert run(*words, "--residual", "5", "--force")[0] == 0
    assert container.unpack((folder / "a.gic").read_bytes()).layers == ("latent", "residual")
    assert b"up to date" in run(*words, "--residual", "5")[1]
    assert "has another residual layer" in run(*words, "--residual", "6")[2]
    assert "has another residual layer" in run(*words, "--residual", "5", "--roi", "0,0,32,32")[2]


@pytest.mark.parametrize(
    "words, says",
    [
        (("--layers", "texture"), "layers are 'texture', wanted a list of semantic, latent, residual"),
        (("--layers", ""), "wanted a list"),
        (("--residual", "11"), "is 11.0, wanted a number from 0 to 10"),
        (("--roi", "1,2,3"), "got --roi 1,2,3, wanted x,y,width,height in whole pixels"),
        (("--roi", "90,90,20,20"), "region 90,90,20,20 (x, y, width, height) is not inside the image of 96x96"),
        (("--layers", "semantic", "-q", "3"), "got --quality for files without a latent"),
        (("--residual", "5", "--refine", "2"), "latent refinement with layers latent, residual"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(folder, words, says):
    status, _, text = run("encode", "a.png", *words)
    assert status in (1, 2) and says in text and not (folder / "a.gic").exists()


def test_layers_of_a_session():
    for layers in ("texture", ["latent", "texture"]):
        with pytest.raises(ConfigError, match="no layer 'texture', wanted semantic, latent, residual"):
            open_session(layers=layers)
    with pytest.raises(ConfigError, match="layers=residual: wanted semantic, latent or both"):
        open_session(layers="residual")
