"""The model card: the Hub's own format, made from the file alone; people's edits and other READMEs are safe."""

import hashlib
import json

import pytest
import torch
from huggingface_hub import ModelCard

from priorcodec import AdapterError
from priorcodec.adapters import card
from priorcodec.adapters import file as adapter_file
from priorcodec.core.io import safetensors

CONFIG = {"width": 16, "depth": 1, "stem_width": 16, "stem_depth": 1, "tokens": 1, "start": [250.0, 80.0]}
METADATA = {
    "kind": adapter_file.KIND,
    "backbone": "sd15",
    "revision": "1" * 40,
    "source": "someone/model",
    "backbone_parameters": "1000",
    "encoder": "569850c2",
    "rules": "abc",
    "config": json.dumps(CONFIG),
    "license": "Apache-2.0",
    "data": "12 photographs | of\nmine",
    "steps": "7",
}
TENSORS = {
    "own.bridge.head.weight": torch.zeros(5, 4),
    "own.bridge.tail.bias": torch.zeros(10),
    "own.tokens": torch.zeros(2, 3),
    "lora.down.0.lora_A.weight": torch.zeros(4),
}


@pytest.fixture
def write(tmp_path):
    def file(**changed):
        metadata = {k: v for k, v in (METADATA | changed).items() if v is not None}
        path = tmp_path / "sd15.adapter.safetensors"
        path.write_bytes(safetensors.to_bytes(TENSORS, metadata))
        return path

    return file


def test_the_hubs_own_reader_finds_everything(write):
    path = write()
    read = ModelCard.load(card.write(path))
    assert read.data.to_dict() == {
        "license": "apache-2.0",
        "library_name": "priorcodec",
        "base_model": "someone/model",
        "base_model_relation": "adapter",
        "tags": ["priorcodec", "image-compression", "sd15"],
    }
    for part in (
        "priorcodec decode photo.gic --backbone sd15 --adapter sd15.adapter.safetensors",
        "--adapter OWNER/REPO/sd15.adapter.safetensors@COMMIT",
        "| parameters | 40 (4.00% of the backbone's): bridge 30, lora 4, tokens 6 |",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        "`569850c2`",
        "| steps | 7 |",
        "12 photographs",
        "## Limits",
    ):
        assert part in read.text, part


def test_parts_are_named_by_the_tensors(write):
    assert card.parts(adapter_file.read(write())) == {"bridge": 30, "lora": 4, "tokens": 6}


@pytest.mark.parametrize(
    "license, wanted",
    [("MIT", ("mit", None)), ("House License 2", ("other", "house-license-2")), (None, ("unknown", None))],
)
def test_licenses_the_hub_knows_and_others(write, license, wanted):
    data = ModelCard.load(card.write(write(license=license))).data
    assert (data.license, data.license_name) == wanted


def test_a_shipped_backbone_is_no_base_model_on_the_hub(write):
    data = ModelCard.load(card.write(write(revision="2" * 64, source="weights/nano.safetensors"))).data
    assert data.base_model is None


def test_weights_without_a_version_are_no_base_model_either(write):
    made = ModelCard.load(card.write(write(revision="0" * 40, source="me/mine")))
    assert made.data.base_model is None and "in no stated version" in made.text
    assert "0000" not in made.text and "huggingface.co" not in made.text


def test_edits_stay_until_the_adapter_changes(write):
    readme = card.write(write())
    readme.write_text(readme.read_text() + "\nScores: good\n")
    assert "Scores: good" in card.write(write()).read_text()
    changed = card.write(write(steps="8")).read_text()
    assert "Scores: good" not in changed and "| steps | 8 |" in changed


@pytest.mark.parametrize("text", ["# My project\n", "---\nlibrary_name: peft\n---\n"])
def test_another_readme_is_never_overwritten(write, text):
    path = write()
    path.with_name("README.md").write_text(text)
    with pytest.raises(AdapterError, match="is not an adapter's card and stays"):
        card.write(path)
    assert path.with_name("README.md").read_text() == text


@pytest.mark.parametrize(
    "changed, match",
    [
        ({"kind": "priorcodec adapter 99"}, "update priorcodec or get another adapter"),
        ({"encoder": None}, "its encoder"),
    ],
)
def test_what_gets_no_card(write, changed, match):
    path = write(**changed)
    with pytest.raises(AdapterError, match=match):
        card.write(path)
    assert not path.with_name("README.md").exists()
