"""The inputs in ../shared/cases that once failed, where that folder lies beside the checkout; smaller equivalents of all of
them are made by the other tests of this folder.
"""

from pathlib import Path

import numpy as np
import pytest

from priorcodec.core.errors import ImageError
from priorcodec.core.image import io as image_io
from tests.core.image.makers import LEFT, RIGHT, middles

CASES = next(
    (folder / "shared" / "cases" for folder in Path(__file__).parents if (folder / "shared" / "cases").is_dir()),
    Path("none"),
)
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")


@pytest.mark.parametrize(
    "name, left, right, note",
    [
        ("rgb16_planar.tif", LEFT, RIGHT, "16 bits"),
        ("g16.tif", (64,) * 3, (192,) * 3, "16 bits"),
        ("cicp_p3.avif", (218, 0, 54), (0, 183, 78), "Display P3"),
        ("workflow_ztxt.png", LEFT, RIGHT, ""),
        ("gama_linear.png", (229, 110, 133), (133, 219, 160), "gamma 1"),
        ("badcrc_idat.png", LEFT, RIGHT, "damaged"),
        ("thumb_first.tif", LEFT, RIGHT, "64x64"),
        ("p3.png", LEFT, RIGHT, "converted"),
    ],
)
def test_flat_halves(name, left, right, note):
    loaded = image_io.load(CASES / name)
    for got, wanted in zip(middles(loaded.pixels), (left, right), strict=True):
        assert got == pytest.approx(list(wanted), abs=1)
    assert note in " ".join(loaded.notes) and bool(note) == bool(loaded.notes)


def test_planar_photo():
    right = image_io.load(CASES / "photo_planar16_right.png").pixels
    assert np.array_equal(image_io.load(CASES / "photo_planar16_none.tif").pixels, right)


@pytest.mark.parametrize(
    "name, says",
    [
        ("f32.tif", "floating-point samples"),
        ("cicp_pq2020.avif", "PQ"),
        ("damaged.avif", "damaged"),
        ("strunc.tar", "not an image"),
        ("alpha.webp", "transparent parts"),
        ("grey2_trns.png", "transparent parts"),
        ("ga_assoc.tif", "transparent parts"),
    ],
)
def test_refused_in_one_line(name, says):
    with pytest.raises(ImageError, match=says) as caught:
        image_io.load(CASES / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_backgrounds():
    assert middles(image_io.load(CASES / "grey2_trns.png", background="red").pixels) == ([255, 0, 0], [255, 255, 255])
    left, right = middles(image_io.load(CASES / "ga_assoc.tif", background="black").pixels)
    assert left == pytest.approx([32] * 3, abs=1) and right == [192] * 3


@pytest.mark.parametrize("text", ["rgb(300,0,0)", "rgb(100%,500%,0%)", "#12345", "rgba(1,2,3,4)", "x"])
def test_impossible_backgrounds(text):
    with pytest.raises(ImageError, match="is no color"):
        image_io.load(CASES / "grey2_trns.png", background=text)


def test_orientation_precision_and_damage():
    assert image_io.load(CASES / "exif6.jpg").pixels.shape == (64, 32, 3)
    assert len(np.unique(image_io.load(CASES / "linear16_dark.png").pixels)) > 25  # 4 if cut to 8 bits first
    assert image_io.load(CASES / "corrupt_mid.jpg").damaged
