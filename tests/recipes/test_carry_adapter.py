"""An adapter that is carried to another encoder answers as the old one did at the old quality, without the old features."""

import json

import pytest
import torch

from priorcodec import AdapterError, open_registry
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.core.io import atomic, safetensors
from recipes.encoder2.carry_adapter import BELOW, FIRST, OLD_LEVELS, carried

SPEC = open_registry().spec("toy")
M, LEVELS = 5, 12


@pytest.fixture
def old(tmp_path):
    torch.manual_seed(0)
    config = AdapterConfig(
        width=8, depth=1, stem_width=8, stem_depth=1, refiner=8, refiner_depth=1, mapper=False, start=(250.0, 80.0)
    )
    adapter = Adapter(SPEC, config, m=7, levels=OLD_LEVELS)
    for parameter in adapter.parameters():
        parameter.data = 0.1 * torch.randn_like(parameter)
    adapter.inject(SPEC.build_tiny())
    adapter_file.save(adapter, tmp_path / "a.safetensors", encoder_id=int(FIRST, 16), metadata={}, dtype=torch.float32)
    return tmp_path / "a.safetensors"


def opened(path, tensors, metadata, encoder):
    atomic.write(path, safetensors.to_bytes(tensors, metadata))
    return Adapter.open(path, SPEC, encoder_id=encoder, m=M, levels=LEVELS)


def test_it_answers_as_the_old_one_at_the_old_quality(old, tmp_path):
    before = Adapter.open(old, SPEC, encoder_id=int(FIRST, 16), m=7, levels=OLD_LEVELS)
    parts = carried(adapter_file.read(old), encoder=1, m=M, levels=LEVELS, stride=SPEC.latent.stride)
    after = opened(tmp_path / "b.safetensors", *parts, 1)
    preview, x = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    new = torch.tensor([3.0, 10.0])
    with torch.no_grad():
        wanted = before.bridge(torch.zeros(2, 7, 4, 4), new - BELOW, preview)[0]
        got = after.bridge(torch.randn(2, M, 4, 4), new, preview)[0]
        inside = (..., slice(16, 48), slice(16, 48))  # the quality of padding is zero to a 3x3
        refined = [part.refiner(x, preview, q)[inside] for part, q in ((before, new - BELOW), (after, new))]
    torch.testing.assert_close(got, wanted, rtol=0, atol=3e-3)
    torch.testing.assert_close(refined[1], refined[0], rtol=0, atol=3e-3)
    for q in (3.0, 10.0):
        torch.testing.assert_close(after.start_time(torch.tensor([q])), before.start_time(torch.tensor([q - BELOW])))


def test_carried_again_it_only_gets_another_id(old, tmp_path):
    tensors, metadata = carried(adapter_file.read(old), encoder=1, m=M, levels=LEVELS, stride=SPEC.latent.stride)
    opened(tmp_path / "b.safetensors", tensors, metadata, 1)
    again, second = carried(adapter_file.read(tmp_path / "b.safetensors"), encoder=2, m=M, levels=LEVELS, stride=1)
    assert second == {**metadata, "encoder": "00000002"}
    assert all(torch.equal(again[name], value) for name, value in tensors.items())


def test_one_that_reads_features_is_refused(old, tmp_path):
    header, tensors = safetensors.read(old, adapter_file.KIND, AdapterError, "")
    for change in ({"encoder": "00000009"}, {"config": json.dumps({**json.loads(header["config"]), "mapper": True})}):
        atomic.write(tmp_path / "c.safetensors", safetensors.to_bytes(tensors, {**header, **change}))
        with pytest.raises(AdapterError, match="train it again"):
            carried(adapter_file.read(tmp_path / "c.safetensors"), encoder=1, m=M, levels=LEVELS, stride=1)
