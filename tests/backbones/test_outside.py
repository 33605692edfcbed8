"""Families that we do not ship: the x4 upscaler of docs/plugins decodes a file from a folder; six more pass the kit."""

import importlib
import sys
import types
from pathlib import Path

import pytest
import torch

from priorcodec import hookimpl, open_session
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.core.errors import DryRunWarning
from priorcodec.registry import open_registry
from priorcodec.registry.plugins import Candidate
from priorcodec.testing import Status, check_backbone

ROOT = Path(__file__).parents[2]
GIC = ROOT / "tests" / "golden" / "photo-128x96-q11.gic"
FAMILIES = ["ldm_vq", "hunyuan"] + [
    pytest.param(name, marks=pytest.mark.slow) for name in ("ddpm", "kandinsky22", "sana", "flux")
]
SMALL = AdapterConfig(width=8, depth=1, stem_width=8, stem_depth=1, fusion=8, refiner=0)


@pytest.fixture(scope="module")
def x4():
    """The plugin in docs/plugins/upscaler: priorcodec_x4/__init__.py and model.py."""
    sys.path.insert(0, str(ROOT / "docs" / "plugins" / "upscaler"))
    try:
        yield importlib.import_module("priorcodec_x4")
    finally:
        sys.path.pop(0)


def registry_with(spec):
    registry = open_registry()
    plugin = types.SimpleNamespace(priorcodec_backbones=hookimpl(lambda: [spec]))
    assert not registry.add(Candidate(name=spec.name, origin="test", load=lambda: plugin)).error
    return registry


def adapter_for(spec, session, path, metadata):
    torch.manual_seed(0)
    shape = session.codec.transforms.config
    adapter = Adapter(spec, SMALL, m=shape.m, levels=shape.levels, tiny=True)
    backbone = spec.build_tiny()
    adapter.inject(backbone)
    with torch.no_grad():
        for weight in adapter.trainable():  # as after some training
            weight += 0.02 * torch.randn(weight.shape)
    adapter_file.save(adapter, path, encoder_id=session.codec.id, metadata=metadata)
    adapter.eject()
    return backbone


def test_the_upscaler_reads_a_folder_and_decodes_a_file(x4, tmp_path, monkeypatch):
    """The real classes in the Hub's layout, found by the folders that the spec names, and a file of the shipped encoder."""
    import diffusers

    spec, registry = x4.SPEC, registry_with(x4.SPEC)
    session = open_session("x4", adapter=str(tmp_path / "x4.safetensors"), registry=registry)
    saved = adapter_for(spec, session, tmp_path / "x4.safetensors", {"tiny": "true"})
    saved.module.save_pretrained(tmp_path / "w" / "unet")
    saved.vae.save_pretrained(tmp_path / "w" / "vae")
    model = importlib.import_module("priorcodec_x4.model")
    diffusers.DDIMScheduler(**model.SCHEDULE, prediction_type="v_prediction").save_pretrained(
        tmp_path / "w" / "scheduler"
    )
    assert saved.module.conv_in.weight.shape[1] == 7 and saved.module.class_embedding.weight.shape[0] == 1000
    loaded = spec.build(registry.weights(spec, str(tmp_path / "w")), dtype=torch.float32)
    monkeypatch.setattr(model, "Upscaler", lambda weights, dtype, tiny: loaded)  # for the tiny adapter, the tiny folder
    with pytest.warns(DryRunWarning, match="tiny random model of x4"):
        image = session.decode(GIC, output="np")
    assert image.shape == (96, 128, 3) and image.std() > 1
    seen = []
    predict = loaded.predict
    object.__setattr__(loaded, "predict", lambda x, t, c: (seen.append(c), predict(x, t, c))[1])
    session.decode(GIC, output="np")
    preview = session.codec.preview_tensor(session.codec.decode(GIC.read_bytes()), perceptual=True)
    assert torch.equal(seen[0].thumbnail, torch.nn.functional.avg_pool2d(preview, 4))
    assert seen[0].preview is None and seen[0].latent is None and seen[0].features is None


@pytest.mark.slow
def test_the_upscaler_passes_the_kit(x4):
    assert failed(x4.SPEC) == {}


@pytest.mark.parametrize("name", FAMILIES)
def test_six_families(name):
    module = importlib.import_module(f"tests.testing.outside.{name}")
    assert failed(module.SPEC) == {}
    assert len(Path(module.__file__).read_text().splitlines()) <= 60


def failed(spec):
    return {result.check: result.message for result in check_backbone(spec) if result.status is Status.FAILED}
