"""One .gic file, made once, decoded through every backbone of ours, each in a fresh process from its own folder."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.core.codec import Codec
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.registry import open_registry

SCRIPT = Path(__file__).with_name("decode_once.py")
SPECS = open_registry().specs()
BACKBONES = ["pixart"] + [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("sd15", "sd21", "sd21.base", "sdxl", "pixart.sigma", "nano_pixel", "nano_dit")
]
HEIGHT, WIDTH = 71, 99


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A small encoder and one file; nothing of any backbone exists yet."""
    folder = tmp_path_factory.mktemp("coded")
    torch.manual_seed(0)
    config = EncoderConfig(n8=16, n16=16, m=8, groups=(2, 6), m_h=4, n=16, depth8=1, depth16=1, levels=4)
    save_encoder(ImageEncoder(config), folder / "encoder.safetensors", {})
    codec = Codec(folder / "encoder.safetensors")
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    done = codec.encode(pixels, 2.0)
    (folder / "image.gic").write_bytes(done.data)
    return folder, codec, done


def write_weights(spec, folder):
    backbone = spec.build_tiny()
    backbone.module.save_pretrained(folder / spec.denoiser_subfolder)
    backbone.vae.save_pretrained(folder / "vae")
    import diffusers

    linear = spec.name.startswith("pixart")
    diffusers.DDIMScheduler(
        beta_start=0.0001 if linear else 0.00085,
        beta_end=0.02 if linear else 0.012,
        beta_schedule="linear" if linear else "scaled_linear",
        prediction_type="v_prediction" if spec.prediction == "velocity" else "epsilon",
    ).save_pretrained(folder / "scheduler")


def write_adapter(spec, codec, path):
    adapter = Adapter(
        spec, AdapterConfig(width=8, depth=1, stem_width=8, stem_depth=1, fusion=8), m=8, levels=4, tiny=True
    )
    adapter.inject(spec.build_tiny())
    with torch.no_grad():
        for i, weight in enumerate(adapter.trainable()):  # as after some training
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    adapter_file.save(adapter, path, encoder_id=codec.id, metadata={})


@pytest.mark.parametrize("name", BACKBONES)
def test_one_file_through_every_backbone(encoded, name, tmp_path):
    folder, codec, done = encoded
    spec, gic = SPECS[name], folder / "image.gic"
    before = hashlib.sha256(gic.read_bytes()).hexdigest()
    weights = "-"
    if spec.denoiser_subfolder:
        weights = tmp_path / "weights"
        write_weights(spec, weights)
    write_adapter(spec, codec, tmp_path / "adapter.safetensors")
    words = [name, weights, folder / "encoder.safetensors", tmp_path / "adapter.safetensors", gic]
    runs = []
    for _ in range(2 if name == "sd15" else 1):
        out = subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        runs.append(json.loads(out.stdout.splitlines()[-1]))
    assert runs[0] == runs[-1]
    assert runs[0]["shape"] == [HEIGHT, WIDTH, 3]
    assert runs[0]["symbols"] == done.symbols_sha256
    assert runs[0]["spread"] > 0.5
    assert runs[0]["text_models"] == []
    assert hashlib.sha256(gic.read_bytes()).hexdigest() == before
