"""Crops of training images with the encoder's features and EfficientNet-Lite0's: prepare.py SHARD.tar... FOLDER

FOLDER/x.npy uint8 (n, 3, 256, 256), y.npy float16 (n, 112, 16, 16), f.npy float16 (n, 112, 16, 16), generated.npy bool (n,).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from priorcodec.core.codec import Codec
from priorcodec.core.errors import ImageError
from priorcodec.training import sources
from priorcodec.training.perceptual import Features

SIDE = 256
COUNT = 2200


def main() -> None:
    torch.set_num_threads(1)
    *shards, folder = sys.argv[1:]
    out = Path(folder)
    entries = [e for e in sources.find(shards, out, background="white") if min(e.width, e.height) >= SIDE]
    rng = np.random.default_rng(7)
    order = rng.permutation(len(entries))
    codec, lite0 = Codec(), Features.lite0(16)
    xs, ys, fs, generated = [], [], [], []
    began = time.time()
    with torch.inference_mode():
        for i in order:
            try:
                pixels = sources.read(entries[i], background="white")
            except ImageError:
                continue
            top, left = (int(rng.integers(side - SIDE + 1)) for side in pixels.shape[:2])
            x = torch.from_numpy(pixels[top : top + SIDE, left : left + SIDE].copy()).permute(2, 0, 1)[None]
            signed = (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            xs.append(x[0].numpy())
            ys.append(codec.transforms.g_a(signed)[0].half().numpy())
            fs.append(lite0(signed)[-1][0].half().numpy())
            generated.append("aigc" in entries[i].path)
            if len(xs) % 200 == 0:
                print(len(xs), round(time.time() - began), flush=True)
            if len(xs) >= COUNT:
                break
    for name, values in ("x", xs), ("y", ys), ("f", fs), ("generated", generated):
        np.save(out / f"{name}.npy", np.stack(values))


if __name__ == "__main__":
    main()
