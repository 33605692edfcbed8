"""Train toy's adapter: a small bridge and LoRA on block means.   python recipes/toy.py IMAGES RUN_FOLDER"""

import argparse
from pathlib import Path

import torch

from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.backbones.builtin.toy import SPEC
from priorcodec.core import shipped
from priorcodec.core.codec import Codec
from priorcodec.core.image import io as image_io
from priorcodec.core.weights import load_simulation
from priorcodec.training import sources
from priorcodec.training.data import DeterministicCrops
from priorcodec.training.loop import Budget, Loop
from priorcodec.training.settings import split_paths

CROP, BATCH, SEED = 128, 8, 4
CONFIG = AdapterConfig(
    width=16, depth=1, stem_width=16, stem_depth=1, fusion=0, refiner=0, tokens=1, mapper=False, start=(250.0, 80.0)
)

cli = argparse.ArgumentParser()
cli.add_argument("images", help="folders and tar shards, separated by commas")
cli.add_argument("run", type=Path)
cli.add_argument("--steps", type=int, default=600)
args = cli.parse_args()

torch.manual_seed(SEED)
encoder = load_simulation(shipped.ENCODER)
backbone = SPEC.build(None, dtype=torch.float32)
adapter = Adapter(SPEC, CONFIG, m=encoder.config.m, levels=encoder.config.levels)
adapter.inject(backbone)
loop = Loop(adapter, args.run, Budget(lr=2e-3, steps=args.steps, warmup=50), parameters=adapter.trainable())
entries = sources.find(split_paths(args.images), args.run, background="white")
crops = DeterministicCrops(entries, CROP, seed=SEED)


def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
    x = image_io.to_range(crops.batch(step, BATCH))
    quality = torch.rand(BATCH) * (encoder.config.levels - 1)
    with torch.no_grad():
        y_hat = encoder.code(x, quality, autocast=True).y_hat
        preview = encoder.synthesize(y_hat, quality, perceptual=True, autocast=True)
    z = adapter(y_hat, quality, preview).z
    error = (z - backbone.to_latents(x)).square().mean()
    return error, {"latent": error.item()}


loop.run(loss)
loop.swap_average()
metadata = {"steps": str(loop.step), "license": "Apache-2.0"}
adapter_file.save(adapter, args.run / "toy.adapter.safetensors", encoder_id=Codec().id, metadata=metadata)
