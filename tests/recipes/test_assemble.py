"""A trained state becomes an adapter's file that decodes; one of other sizes is refused and leaves nothing."""

import hashlib
import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from priorcodec import AdapterError, open_registry
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.exact_reader import encoder_id
from priorcodec.core.transforms import EncoderConfig
from priorcodec.core.weights import load_encoder, load_simulation
from recipes.gpu import assemble, freeze, resume
from recipes.gpu.decoder import SIZES

SPEC = open_registry().spec("nano_pixel")
SMALL = AdapterConfig(
    width=8, depth=1, stem_width=8, stem_depth=1, fusion=8, refiner=8, refiner_depth=1, tokens=2, lora_rank=1
)
SHAPE, ENCODER = EncoderConfig(), 0xC0FFEE


def trained(config: AdapterConfig, path):
    """A state as recipes/gpu/decoder.py writes it: fp16, LoRA included."""
    torch.manual_seed(0)
    adapter, backbone = Adapter(SPEC, config, m=SHAPE.m, levels=SHAPE.levels), SPEC.build(None, dtype=torch.float32)
    adapter.inject(backbone)
    state = adapter.state_dict() | {f"lora.{name}": value for name, value in adapter.lora.items()}
    state = {name: (value + 0.01 * torch.randn(value.shape)).detach().half() for name, value in state.items()}
    save_file(state, path, {"steps": "7"})
    return state


def test_a_state_becomes_a_bound_file_with_every_tensor(tmp_path):
    state, target = trained(SMALL, tmp_path / "state.safetensors"), tmp_path / "a.safetensors"
    assemble.assemble(SPEC, SMALL, tmp_path / "state.safetensors", target, encoder=ENCODER, shape=SHAPE)
    first = target.read_bytes()
    file = adapter_file.read(target)
    assert file.config == SMALL and file.metadata["steps"] == "7"
    assert file.metadata["revision"] == SPEC.sha256 and file.metadata["encoder"] == f"{ENCODER:08x}"
    named = {name if name.startswith("lora.") else f"own.{name}": value for name, value in state.items()}
    assert named.keys() == file.tensors.keys()
    assert all(torch.equal(file.tensors[name], value) for name, value in named.items())
    Adapter.open(target, SPEC, encoder_id=ENCODER, m=SHAPE.m, levels=SHAPE.levels)
    assemble.assemble(SPEC, SMALL, tmp_path / "state.safetensors", target, encoder=ENCODER, shape=SHAPE)
    assert target.read_bytes() == first


@pytest.mark.parametrize("change", ["sizes", "lora", "unknown"])
def test_a_state_that_does_not_fit_writes_nothing(tmp_path, change):
    state = trained(SMALL, tmp_path / "state.safetensors")
    if change == "sizes":
        state["bridge.tail.bias"] = state["bridge.tail.bias"][:-1].clone()
    elif change == "lora":
        state = {name: value for name, value in state.items() if "lora_A" not in name or "tail" not in name}
    else:
        name = next(name for name in state if name.startswith("lora.trunk.0."))
        state[name.replace("trunk.0.", "trunk.99.")] = state.pop(name)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(AdapterError):
        assemble.assemble(
            SPEC, SMALL, tmp_path / "other.safetensors", tmp_path / "a.safetensors", encoder=ENCODER, shape=SHAPE
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.safetensors", "state.safetensors"]


def test_the_command_writes_beside_a_manifest(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(assemble.SIZES, "nano_pixel", SMALL)
    trained(SMALL, tmp_path / "state.safetensors")
    words = ["assemble", "nano_pixel", str(tmp_path / "state.safetensors"), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    assemble.main()
    written = tmp_path / "nano_pixel.adapter.safetensors"
    shipped = load_encoder(assemble.shipped.ENCODER).id
    assert adapter_file.read(written).metadata["encoder"] == f"{shipped:08x}"
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "manifest.json").read_text()) == {written.name: digest}
    assert digest in capsys.readouterr().out


def test_a_backbone_is_frozen_to_the_same_bytes_every_time(tmp_path, monkeypatch, capsys):
    tensors = {f"layer{i}.weight": torch.full((2, 3), i, dtype=torch.float16) for i in range(3)}
    save_file(tensors, tmp_path / "trained.safetensors")
    digests = []
    for _ in range(2):
        words = ["freeze", "toy", str(tmp_path / "trained.safetensors"), "--steps", "602", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", words)
        freeze.main()
        digests.append(capsys.readouterr().out.strip())
    assert digests[0] == digests[1] == hashlib.sha256((tmp_path / "toy.safetensors").read_bytes()).hexdigest()
    assert adapter_file.safetensors.describe(tmp_path / "toy.safetensors", AdapterError)[0]["steps"] == "602"


def test_a_run_can_start_from_what_is_shipped(tmp_path):
    """The state taken out of the shipped adapter makes the same tensors again; the encoder's tables are the same integers."""
    encoder = load_simulation(resume.shipped.ENCODER)
    path = open_registry().adapter(SPEC, "default")
    state = resume.state(resume.open_adapter(SPEC, encoder))
    stored = adapter_file.read(path)
    save_file(state, tmp_path / "state.safetensors", {"steps": stored.metadata["steps"]})
    target, identity = tmp_path / path.name, encoder_id(resume.shipped.ENCODER.read_bytes())
    assemble.assemble(SPEC, SIZES["nano_pixel"], tmp_path / "state.safetensors", target, encoder=identity, shape=SHAPE)
    made = adapter_file.read(target)
    assert made.config == stored.config and made.metadata.keys() == stored.metadata.keys()
    assert made.tensors.keys() == stored.tensors.keys()
    assert all(torch.equal(made.tensors[name], value) for name, value in stored.tensors.items())
    frozen, again = load_encoder(resume.shipped.ENCODER).entropy_model.tables, encoder.entropy.tables()
    by_quality = ("quality_bias", "z_mean", "z_index")  # rows between levels are interpolated before they are rounded
    steps = {name: QUALITY_STEPS if name in by_quality else 1 for name in again}
    assert again and all((frozen[name][::step] == again[name][::step]).all() for name, step in steps.items())
