"""Fit the frequencies of the residual layer: python -m recipes.residual SHARD.tar... [--images 60]

    images of training, at eight qualities --FrozenEntropyModel.encode--> symbols --layers.residual.counts--> frequencies
Writes priorcodec/weights/residual.safetensors and its line in manifest.json. Run it after `recipes.encoder2.release`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from priorcodec.core.codec import Codec
from priorcodec.core.entropy.frozen import Planes
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.io import atomic, safetensors
from priorcodec.core.layers import residual
from priorcodec.training import sources
from recipes.encoder2.release import pin

SIDE = 448  # pixels, of the part of an image that is counted
QUALITIES = range(4, 12)


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("shards", nargs="+")
    cli.add_argument("--images", type=int, default=60)
    a = cli.parse_args()
    codec, counted, done = Codec(), np.zeros((residual.SCALES, residual.SIZES, 3), np.int64), 0
    with tempfile.TemporaryDirectory() as cache, torch.inference_mode():
        entries = [e for e in sources.find(a.shards, Path(cache), background="white") if min(e.width, e.height) >= SIDE]
        for i in np.random.default_rng(7).permutation(len(entries))[: a.images]:
            y = codec.analyze(sources.read(entries[i], background="white")[:SIDE, :SIDE])
            for quality in QUALITIES:
                y_q, z = (v[0].numpy() for v in codec.transforms.scaled(y, torch.tensor([float(quality)])))
                planes = Planes(y_q.shape)
                coded = codec.entropy_model.encode(y_q, z, quality * QUALITY_STEPS, planes)
                counted += residual.counts(y_q, coded.y_hat_q, planes)
            done += 1
            print(f"{done} of {a.images} images, {counted.sum() / 1e6:.0f} million values", flush=True)
    frequency = torch.from_numpy(residual.fitted(counted))
    metadata = {"kind": residual.KIND, "encoder_id": f"{codec.id:08x}", "license": "Apache-2.0"}
    atomic.write(residual.SHIPPED, safetensors.to_bytes({"frequency": frequency}, metadata))
    print(pin(residual.SHIPPED))


if __name__ == "__main__":
    main()
