"""Adapters of nano_pixel beside both previews on the same files.   python benchmarks/adapter_runs.py PACK PACKED NAME=FILE...

Crops of training images (256x256, qualities 1 to 9), drawn apart from those of any run, so that choosing among runs does not use
the evaluation sets. PACK holds features.safetensors and vgg.safetensors (recipes/gpu/pack.py), which the runs were trained
with; PACKED the images (recipes/encoder2/crops.py). Lite1 had no part in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import resultfile
import torch

from priorcodec.core.image import io as image_io
from priorcodec.evaluation import features
from priorcodec.session import open_session
from priorcodec.training.losses import periodic_artifact
from priorcodec.training.perceptual import Features, Vgg, dists_form, lpips_form
from recipes.encoder2.crops import Crops
from recipes.gpu.common import load_features, load_vgg

QUALITIES, SIDE, SEED = (1, 3, 5, 6, 7, 9), 256, 990


@torch.inference_mode()
def scores(pixels: np.ndarray, image: np.ndarray, lite0: Features, vgg: Vgg) -> dict[str, float]:
    x, x_hat = image_io.to_tensor(pixels), image_io.to_tensor(image)
    a, b, c, d = lite0(x_hat), lite0(x), vgg(x_hat), vgg(x)
    return {
        "error": float((x_hat - x).abs().mean()),
        "lite1_lpips": features.feature_lpips(features.Lite1, pixels, image),
        "lite1_dists": features.feature_dists(features.Lite1, pixels, image),
        "lite0_lpips": float(lpips_form(a, b)),
        "lite0_dists": float(dists_form(a, b)),
        "vgg": float(vgg.distance(c, d)),
        "repetition": float(periodic_artifact(x_hat, x)),
    }


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("pack", type=Path)
    cli.add_argument("packed", type=Path)
    cli.add_argument("adapters", nargs="*", metavar="NAME=FILE")
    cli.add_argument("--crops", type=int, default=24)
    given = cli.parse_args()
    torch.set_num_threads(1)
    lite0 = load_features(given.pack / "features.safetensors")
    vgg, source = load_vgg(given.pack / "vgg.safetensors"), Crops(given.packed, seed=SEED)
    files = dict(text.split("=", 1) for text in given.adapters)
    sessions = {"shipped": open_session("nano_pixel")}
    sessions |= {name: open_session("nano_pixel", adapter=file) for name, file in files.items()}
    codec, found = sessions["shipped"].codec, {}
    for i in range(given.crops):
        pixels = np.ascontiguousarray(source.crop(i, 0, SIDE, 0.15).permute(1, 2, 0).numpy())
        data = codec.encode(pixels, QUALITIES[i % len(QUALITIES)]).data
        decoded = codec.decode(data)
        images: dict[str, Any] = {"preview": codec.preview(decoded)}
        images["perceptual preview"] = codec.preview(decoded, perceptual=True)
        images |= {name: session.decode(data, output="np") for name, session in sessions.items()}
        for name, image in images.items():
            found.setdefault(name, []).append(scores(pixels, image, lite0, vgg))
    rows = [
        {"decoder": name, **{key: round(float(np.mean([row[key] for row in given])), 5) for key in given[0]}}
        for name, given in found.items()
    ]
    print(*rows, sep="\n")
    resultfile.write("adapter_runs", "adapter_runs", {"crops": given.crops, "qualities": QUALITIES, "rows": rows})


if __name__ == "__main__":
    main()
