"""The adapter file: what goes in comes out, and everything that does not fit is refused in one line."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from priorcodec import AdapterError
from priorcodec.adapters import file as adapter_file
from priorcodec.core.io import safetensors
from tests.adapters.conftest import ENCODER

METADATA = {"steps": "12", "license": "Apache-2.0"}


@pytest.fixture
def trained(make, train_a_little):
    backbone, adapter = make("toy")
    adapter.inject(backbone)
    train_a_little(adapter)
    return adapter


@pytest.fixture
def path(trained, tmp_path):
    path = tmp_path / "toy.safetensors"
    adapter_file.save(trained, path, encoder_id=ENCODER, metadata=METADATA, dtype=torch.float32)
    return path


def altered(path, *, metadata=None, **tensors):
    """The file again with other metadata entries (None removes one) and other tensors (None removes one)."""
    file = adapter_file.read(path)
    header = {k: v for k, v in {**file.metadata, **(metadata or {})}.items() if v is not None}
    values = {k: v for k, v in {**load_file(path), **tensors}.items() if v is not None}
    save_file(values, path, metadata=header)
    return path


def refused(match, action):
    with pytest.raises(AdapterError, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_round_trip(dtype, trained, make, features, tmp_path):
    path = tmp_path / "a.safetensors"
    adapter_file.save(trained, path, encoder_id=ENCODER, metadata=METADATA, dtype=dtype)
    file = adapter_file.read(path)
    adapter_file.check(file, trained.spec, encoder_id=ENCODER)
    assert file.config == trained.config
    assert file.metadata["steps"] == "12" and file.metadata["backbone"] == "toy"
    assert {value.dtype for value in file.tensors.values()} == {dtype}
    backbone, fresh = make("toy")
    fresh.inject(backbone)
    adapter_file.load(file, fresh)
    with torch.no_grad():
        before, after = trained(*features).z, fresh(*features).z
    if dtype is torch.float32:
        assert torch.equal(before, after)
    else:
        torch.testing.assert_close(before, after, rtol=1e-2, atol=1e-2)


def test_the_former_name_of_moments_is_read(path, tmp_path):
    header, tensors = safetensors.read(path, adapter_file.KIND, AdapterError, "")
    former = {**header, "config": header["config"].replace('"moments"', '"statistics"')}
    values = {name.replace("own.moments.", "own.statistics."): value for name, value in tensors.items()}
    assert former != header and values.keys() != tensors.keys()
    save_file(values, tmp_path / "former.safetensors", metadata=former)
    old, new = adapter_file.read(tmp_path / "former.safetensors"), adapter_file.read(path)
    assert old.config == new.config and old.tensors.keys() == new.tensors.keys()


@pytest.mark.parametrize(
    "change, word",
    [({"hub_revision": "1" * 40}, "revision"), ({"name": "other"}, "backbone"), ({"lora": ()}, "rules")],
)
def test_wrong_backbone_revision_or_rules(change, word, path, specs):
    spec = replace(specs["toy"], **change)
    refused(f"is for {word} ", lambda: adapter_file.check(adapter_file.read(path), spec, encoder_id=ENCODER))


def test_wrong_encoder(path, specs):
    refused("is for encoder 00c0ffee, this is 00000001", lambda: adapter_file.check(
        adapter_file.read(path), specs["toy"], encoder_id=1
    ))  # fmt: skip


@pytest.mark.parametrize(
    "metadata, match",
    [
        ({"kind": "priorcodec encoder 1"}, "wanted 'priorcodec adapter 2'"),
        ({"kind": None}, "something else"),
        ({"config": None}, "damaged description"),
        ({"config": "{"}, "damaged description"),
        ({"config": "[]"}, "damaged description"),
        ({"config": '{"width": 8}'}, "damaged description"),
        ({"config": json.dumps({"start": [1, 2], "width": 10**9})}, "width is 1000000000"),
        ({"config": json.dumps({"start": [1, 2], "width": "8"})}, "width is '8'"),
        ({"config": json.dumps({"start": [1, 2, 3]})}, "two times"),
        ({"config": json.dumps({"start": [1, float("nan")]})}, "two times"),
        ({"config": json.dumps({"start": [1, 2], "from_the_future": 1})}, "does not know .from_the_future.: update"),
    ],
)
def test_damaged_metadata(path, metadata, match):
    altered(path, metadata=metadata)
    refused(match, lambda: adapter_file.read(path))


@pytest.mark.parametrize("content", [None, b"", b"\x08\0\0\0\0\0\0\0notjson!", b"GIC\1" * 50])
def test_unreadable_files(tmp_path, content):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    refused("not a readable adapter", lambda: adapter_file.read(path))


def test_truncated_at_any_place(path):
    data = path.read_bytes()
    for length in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:length])
        refused("not a readable adapter", lambda: adapter_file.read(path))


@pytest.mark.parametrize(
    "tensors, match",
    [
        ({"own.bridge.tail.bias": torch.tensor([0.0, float("nan"), 0.0])}, "not finite"),
        ({"lora.conv1.lora_B.priorcodec.weight": torch.full((16, 4, 1, 1), float("inf"))}, "not finite"),
        ({"own.bridge.tail.bias": torch.zeros(4)}, "does not fit"),
        ({"own.bridge.tail.bias": None}, "does not fit"),
        ({"lora.conv1.lora_B.priorcodec.weight": torch.zeros(16, 5, 1, 1)}, "wanted .16, 4, 1, 1."),
        ({"lora.conv1.lora_B.priorcodec.weight": None}, "1 LoRA tensors do not fit"),
        ({"lora.conv9.lora_B.priorcodec.weight": torch.zeros(1)}, "1 LoRA tensors do not fit"),
        ({"surprise.weight": torch.zeros(1)}, "surprise.weight, which this version does not know"),
    ],
)
def test_tensors_that_do_not_fit(path, make, tensors, match):
    altered(path, **tensors)
    backbone, adapter = make("toy")
    adapter.inject(backbone)
    refused(match, lambda: adapter_file.load(adapter_file.read(path), adapter))


@pytest.mark.parametrize("value, dtype", [(float("nan"), torch.float32), (1e6, torch.float16)])
def test_what_could_not_be_loaded_is_not_saved(trained, tmp_path, value, dtype):
    with torch.no_grad():
        trained.bridge.tail.bias.fill_(value)
    path = tmp_path / "a.safetensors"
    refused("not finite as", lambda: adapter_file.save(trained, path, encoder_id=1, metadata={}, dtype=dtype))
    assert not path.exists()
