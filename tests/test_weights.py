"""Shipped weights: WEIGHTS.md and the manifest name exactly the files that ship, and each is checked when it is loaded."""

import hashlib
import re
import shutil

import pytest

from priorcodec import AdapterError, WeightsError, open_registry
from priorcodec.core import shipped
from priorcodec.core.codec import Codec
from priorcodec.core.shipped import FOLDER as WEIGHTS
from priorcodec.core.weights import load_simulation


def test_every_shipped_file_is_described_with_its_hash_and_size():
    text = (WEIGHTS / "WEIGHTS.md").read_text()
    rows = dict(re.findall(r"^\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|", text, re.MULTILINE))
    files = {path.name: path for path in WEIGHTS.glob("*.safetensors")}
    assert set(rows) == set(files)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == rows[name]


def test_all_weights_fit_in_64_mib():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 64 * 2**20


def test_the_manifest_pins_every_shipped_file():
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in WEIGHTS.glob("*.safetensors")}
    assert shipped.manifest() == found


def test_specs_of_shipped_backbones_state_the_same_hash():
    specs = [spec for spec in open_registry().specs().values() if spec.source.startswith("weights/")]
    assert {spec.name for spec in specs} == {"nano_pixel", "nano_dit"}
    assert all(spec.sha256 == shipped.manifest()[spec.source.removeprefix("weights/")] for spec in specs)


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """The shipped folder, one value in the header of the encoder and of toy's adapter changed: still readable files."""
    for name in ("encoder.safetensors", "toy.adapter.safetensors", "manifest.json"):
        shutil.copy(WEIGHTS / name, tmp_path / name)
    for name in ("encoder.safetensors", "toy.adapter.safetensors"):
        data = (tmp_path / name).read_bytes()
        assert b'"steps":"' in data
        (tmp_path / name).write_bytes(data.replace(b'"steps":"', b'"stepz":"', 1))
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("load", [Codec, load_simulation])
def test_a_changed_encoder_is_refused_in_one_line(changed, load):
    with pytest.raises(WeightsError, match="encoder.safetensors has SHA-256 .* reinstall priorcodec") as caught:
        load(changed / "encoder.safetensors")
    assert "\n" not in str(caught.value)


def test_a_changed_adapter_is_refused_in_one_line(changed):
    registry = open_registry()
    with pytest.raises(AdapterError, match="toy.adapter.safetensors has SHA-256") as caught:
        registry.adapter(registry.spec("toy"))
    assert "\n" not in str(caught.value)


def test_an_encoder_elsewhere_is_not_held_against_the_manifest(tmp_path):
    shutil.copy(WEIGHTS / "encoder.safetensors", tmp_path / "encoder.safetensors")
    assert Codec(tmp_path / "encoder.safetensors").id == Codec().id
