"""A tiny untrained encoder, an adapter of the toy backbone, two images, and the way to run a benchmark script."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: object, ok: bool = True, **extra: str) -> subprocess.CompletedProcess:
    """python benchmarks/SCRIPT ..., one thread, from the repository's root."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}
    command = [sys.executable, f"benchmarks/{script}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Two images, 192x176 and 176x192."""
    folder = tmp_path_factory.mktemp("images")
    for i, size in enumerate([(192, 176), (176, 192)]):
        rng = np.random.default_rng(i)
        small = rng.integers(0, 256, (7, 7, 3)).astype(np.uint8)
        x = np.array(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)).astype(float)
        x[50:90, 40:120] += 50
        x += rng.normal(0, 4, x.shape)
        Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)).save(folder / f"pic-{i}.png")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Files of an untrained encoder and of an untrained adapter for `toy`."""
    import torch

    from priorcodec.adapters import file as adapter_file
    from priorcodec.adapters.adapter import Adapter
    from priorcodec.adapters.config import AdapterConfig
    from priorcodec.core.transforms import EncoderConfig, ImageEncoder
    from priorcodec.core.weights import save_encoder
    from priorcodec.registry import open_registry

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    config = EncoderConfig(n8=16, n16=16, m=16, groups=(4, 12), m_h=8, n=16, depth8=1, depth16=1, levels=3)
    model = ImageEncoder(config)
    model.log_gain.data += 3  # untrained features are small: without this every symbol is zero
    encoder_id = save_encoder(model, folder / "encoder.safetensors", {})
    spec = open_registry().spec("toy")
    shape = AdapterConfig(width=16, depth=1, stem_width=16, stem_depth=1)
    adapter = Adapter(spec, shape, m=config.m, levels=config.levels)
    adapter.inject(spec.build_tiny())
    adapter_file.save(adapter, folder / "toy.safetensors", encoder_id=encoder_id, metadata={})
    return {"encoder": folder / "encoder.safetensors", "toy": folder / "toy.safetensors"}


@pytest.fixture(scope="session")
def rd(images, weights, tmp_path_factory) -> dict:
    """One small run of benchmarks/rd.py: its folders, arguments, result and what it said."""
    import json

    folder = tmp_path_factory.mktemp("rd")
    ours = [f"preview:encoder={weights['encoder']}", f"toy:encoder={weights['encoder']},adapter={weights['toy']}"]
    arguments = [
        *(
            "small",
            images,
            "--codecs",
            "jpeg:5,20,60",
            "webp:10,60",
            "mbt2018-mean",
            "vvc",
            *ours,
            "--anchor",
            "jpeg",
        ),
        *("--metrics", "psnr", "msssim", "ssimulacra2", "lite1_frechet", "lpips_alex", "--cache", folder / "cache"),
        *("--results", folder / "results", "--keep", folder / "kept"),
    ]

    said = run("rd.py", *arguments, TORCH_HOME=str(folder / "no weights")).stderr
    result = json.loads((folder / "results" / "small.json").read_text())
    return {"folder": folder, "arguments": arguments, "result": result, "said": said, "images": images}
