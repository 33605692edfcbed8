"""`import priorcodec.pillow` makes .gic one of Pillow's formats (after the tests of Pillow's own plugins)."""

import inspect
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

import priorcodec.pillow
from priorcodec import Session, open_session
from priorcodec.core import container
from tests.helpers import DEMO


@pytest.fixture(scope="module")
def photo():
    with Image.open(DEMO) as image:
        return image.convert("RGB").crop((0, 0, 90, 70))


@pytest.fixture(scope="module")
def data(photo):
    file = io.BytesIO()
    photo.save(file, "GIC", quality=2)
    return file.getvalue()


def test_sanity(data):
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.size, image.format, image.info) == ("RGB", (90, 70), "GIC", {"quality": 2.0})
        image.load()
        assert np.array_equal(np.asarray(image), np.asarray(open_session().preview(data)))
    assert Image.registered_extensions()[".gic"] == "GIC"


def test_save_to_a_path_and_with_options(tmp_path, photo, data):
    photo.save(tmp_path / "a.gic", quality=2)
    assert (tmp_path / "a.gic").read_bytes() == data
    photo.save(tmp_path / "b.gic")
    assert (tmp_path / "b.gic").read_bytes() == open_session().encode(photo, quality=6)
    photo.save(tmp_path / "s.gic", max_bytes=150)
    assert 100 < (tmp_path / "s.gic").stat().st_size <= 150
    photo.convert("L").save(tmp_path / "l.gic")
    clear = Image.new("RGBA", (9, 8))
    clear.save(tmp_path / "w.gic", background="white")
    with Image.open(tmp_path / "w.gic") as image:
        assert image.size == (9, 8)


def test_what_cannot_be_saved_leaves_no_file(tmp_path, photo):
    with pytest.raises(OSError, match="cannot write mode RGBA as GIC"):
        Image.new("RGBA", (9, 8)).save(tmp_path / "a.gic")
    with pytest.raises(ValueError, match="quality is 12"):
        photo.save(tmp_path / "a.gic", quality=12)
    assert not list(tmp_path.iterdir())


def test_nothing_is_decoded_before_it_is_needed(data, monkeypatch):
    calls = []
    decode = priorcodec.pillow.GicDecoder.decode
    monkeypatch.setattr(priorcodec.pillow.GicDecoder, "decode", lambda *args: calls.append(1) or decode(*args))
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert (image.size, calls) == ((90, 70), [])
        image.load()
        image.load()
    assert calls == [1]


def test_a_file_is_closed_after_loading(tmp_path, data):
    (tmp_path / "a.gic").write_bytes(data)
    image = Image.open(tmp_path / "a.gic")
    image.load()
    assert image.fp is None and image.copy().size == (90, 70)


def test_in_parts_through_pillows_parser(data):
    parser = ImageFile.Parser()
    for at in range(0, len(data), 50):
        parser.feed(data[at : at + 50])
    with Image.open(io.BytesIO(data)) as image:
        assert parser.close().tobytes() == image.tobytes()


def test_thumbnail_and_convert(data):
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((20, 20))
        assert image.size == (20, 16) and image.convert("L").mode == "L"


@pytest.mark.parametrize("wrong", [b"", b"GIC", b"GIC\x03" + bytes(20), b"no image at all", b"GIC" + bytes(30)])
def test_what_is_no_gic_file(wrong):
    with pytest.raises(SyntaxError):
        priorcodec.pillow.GicImageFile(io.BytesIO(wrong))
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(wrong))


def test_every_truncation_and_damage_raises_oserror(data):
    for end in range(len(data)):
        with pytest.raises(OSError), Image.open(io.BytesIO(data[:end])) as image:  # UnidentifiedImageError is one
            image.load()
    for i in range(10, len(data)):
        damaged = bytearray(data)
        damaged[i] ^= 1
        with Image.open(io.BytesIO(damaged)) as image, pytest.raises(OSError):
            image.load()
        with Image.open(io.BytesIO(damaged)) as image, pytest.raises(OSError):
            image.verify()


def test_a_header_of_a_huge_image_allocates_nothing(data):
    head = data[: container.HEAD_BYTES - 6]
    for sides, error in (
        (b"\xff\xff\x03\xff\xff\x03", Image.DecompressionBombError),
        (b"\xff\xff\x03\x80\x08", OSError),
    ):
        file = io.BytesIO(head + sides + bytes(40))
        with pytest.raises(error), Image.open(file) as image:
            image.load()
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(head + b"\xff\xff\x7f\x01" + bytes(40)))


def test_no_diffusion_code_and_no_torch_before_the_first_pixel(tmp_path, data):
    (tmp_path / "a.gic").write_bytes(data)
    code = """
import sys, priorcodec.pillow
from PIL import Image
image = Image.open(sys.argv[1])
image.size
print([name for name in ("torch", "diffusers", "peft") if name in sys.modules])
image.load()
image.save(sys.argv[2])
print([name for name in ("diffusers", "peft", "pluggy", "transformers") if name in sys.modules])
"""
    words = [sys.executable, "-c", code, tmp_path / "a.gic", tmp_path / "b.gic"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.splitlines() == ["[]", "[]"] and container.unpack((tmp_path / "b.gic").read_bytes()).width == 90


def test_every_keyword_of_encode_is_taken(tmp_path, photo):
    wanted = set(inspect.signature(Session.encode).parameters) - {"self", "image", "progress"}
    assert wanted == priorcodec.pillow.SAVE_OPTIONS
    photo.save(tmp_path / "a.gic", quality=3, layers=("latent", "residual"), residual=4)
    assert container.unpack((tmp_path / "a.gic").read_bytes()).layers == ("latent", "residual")
