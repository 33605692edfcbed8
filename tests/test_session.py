"""The Python API: what goes in, what comes out, what is loaded for it, and what is said when something is missing."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec import AdapterError, BackboneError, ConfigError, open_session
from priorcodec.core import image
from tests.core.test_codec import DEMO


@pytest.fixture(scope="module")
def session():
    return open_session()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image.load(DEMO).pixels[:100, :150]


def test_pil_array_tensor_and_path_give_the_same_file(session, photo, tmp_path):
    image.save(photo, tmp_path / "photo.png")
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1) / 127.5 - 1
    files = {session.encode(given, 2) for given in (photo, Image.fromarray(photo), tensor, tmp_path / "photo.png")}
    assert len(files) == 1


def test_decode_and_preview_have_the_true_size_and_look_alike(session, photo):
    data = session.encode(photo, quality=5)
    decoded, preview = session.decode(data), session.preview(data)
    assert decoded.size == preview.size == (150, 100)
    for picture in (decoded, preview):
        error = np.mean((np.asarray(picture).astype(float) - photo) ** 2)
        assert 10 * np.log10(255**2 / error) > 18


def test_the_same_file_decodes_to_the_same_picture(session, photo):
    data = session.encode(photo, 3)
    again = open_session()
    assert np.array_equal(session.decode_pixels(data), again.decode_pixels(data))


def test_every_shipped_backbone_decodes_one_file(photo):
    data = open_session().encode(photo, 4)
    pictures = {name: open_session(backbone=name).decode_pixels(data) for name in ("nano_unet", "toy")}
    assert not np.array_equal(pictures["nano_unet"], pictures["toy"])
    assert all(picture.shape == photo.shape for picture in pictures.values())


def test_encoding_imports_no_diffusion_code():
    code = (
        "import sys, numpy as np, priorcodec as p; s = p.open_session(); d = s.encode(np.zeros((8, 8, 3), np.uint8), 1); "
        "s.preview(d); print([m for m in ('diffusers', 'peft', 'compressai') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_what_is_wrong_is_said_in_one_line(session, photo):
    data = session.encode(photo, 0)
    with pytest.raises(BackboneError, match="nano_unet"):
        open_session(backbone="nano_unt").decode(data)
    with pytest.raises(AdapterError, match="no adapter 'fancy'"):
        open_session(adapter="fancy").decode(data)
    with pytest.raises(AdapterError, match="not a readable adapter"):
        open_session(adapter="nowhere.safetensors").decode(data)
    with pytest.raises(ConfigError, match="float12"):
        open_session(dtype="float12")


def test_another_backbones_adapter_is_refused(session, photo):
    data = session.encode(photo, 0)
    toys = session.registry.adapters(session.registry.spec("toy"))[0].location
    with pytest.raises(AdapterError, match="is for backbone toy"):
        open_session(adapter=toys).decode(data)


def test_one_session_serves_many_threads(session, photo):
    wanted = session.decode_pixels(session.encode(photo, 3))
    results: list[bool] = []

    def work() -> None:
        results.append(np.array_equal(session.decode_pixels(session.encode(photo, 3)), wanted))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
