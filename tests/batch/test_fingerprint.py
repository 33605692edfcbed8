"""`--skip-existing` compares weights by content: not by how their path is written, and by what lies there."""

import os
import shutil
from pathlib import Path

import pytest

from priorcodec import open_session
from priorcodec.batch import fingerprint
from priorcodec.batch.fingerprint import weights_digest
from priorcodec.core import shipped
from priorcodec.core.image import io as image_io
from tests.helpers import DEMO


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "config.json").write_text("{}")
    (tmp_path / "model" / "unet" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "link").symlink_to("model")
    return tmp_path


def test_the_path_does_not_matter(folder, monkeypatch):
    monkeypatch.chdir(folder)
    digest = weights_digest(folder / "model")
    shutil.copytree("model", "copy")
    (folder / "model" / "README.md").write_text("no weights")
    for path in ("model", "./model", "link", "link/../model", "copy"):
        assert weights_digest(Path(path)) == digest


def test_what_lies_there_matters(folder):
    digests = {weights_digest(folder / "model")}
    (folder / "model" / "unet" / "config.json").write_text('{"sample_size": 8}')
    digests.add(weights_digest(folder / "model"))
    (folder / "model" / "unet" / "model.safetensors").write_bytes(b"Weights")
    digests.add(weights_digest(folder / "model"))
    (folder / "model" / "unet").rename(folder / "model" / "transformer")
    digests.add(weights_digest(folder / "model"))
    assert len(digests) == 4


def test_large_files_count_by_size_time_and_header_or_by_their_name_in_the_cache(folder, monkeypatch):
    monkeypatch.setattr(fingerprint, "READ_BYTES", 4)
    file = folder / "model" / "unet" / "model.safetensors"
    before = weights_digest(folder / "model")
    os.utime(file, (1, 1))
    assert weights_digest(folder / "model") != before
    blob = folder / ("0" * 64)
    file.rename(blob)
    file.symlink_to(blob)
    before = weights_digest(folder / "model")
    os.utime(blob, (2, 2))
    assert weights_digest(folder / "model") == before


def test_of_a_session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = open_session().encode(image_io.load(DEMO).pixels[:64, :64], quality=1)
    Path("own.safetensors").write_bytes(b"the backbone toy computes its weights and reads none")
    os.symlink("own.safetensors", "link.safetensors")

    def of(weights, **settings):
        return fingerprint.fingerprints(open_session("toy", weights=weights, **settings), preview=False)(data)

    own = of("own.safetensors")
    for weights in ("./own.safetensors", str(tmp_path / "own.safetensors"), "link.safetensors"):
        assert of(weights) == own
    assert own not in (of(None), of("own.safetensors", dtype="float16"))
    Path("own.safetensors").write_bytes(b"other weights")
    assert of("link.safetensors") not in (own, of(None))


@pytest.mark.parametrize("name", ["semantic.safetensors", "residual.safetensors"])
def test_other_weights_of_the_layers_make_another_image(name, monkeypatch):
    session = open_session()
    data = session.encode(image_io.load(DEMO).pixels[:64, :64], quality=1)
    before = fingerprint.fingerprints(session, preview=True)(data)
    assert fingerprint.fingerprints(session, preview=True)(data) == before
    monkeypatch.setitem(shipped.manifest(), name, "0" * 64)
    assert fingerprint.fingerprints(session, preview=True)(data) != before


def test_without_the_backbone_its_weights_need_not_be_there():
    data = open_session().encode(image_io.load(DEMO).pixels[:64, :64], quality=1)
    for weights in (None, "/nowhere"):
        session = open_session("sdxl", weights=weights, blend=0)
        assert len(fingerprint.fingerprints(session, preview=False)(data)) == 32


def test_each_preview_has_its_own():
    session = open_session()
    data = session.encode(image_io.load(DEMO).pixels[:64, :64], quality=1)
    plain, looks = (fingerprint.fingerprints(session, preview=True, perceptual=p)(data) for p in (False, True))
    assert plain != looks
