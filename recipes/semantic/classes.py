"""Classes of decoded features, the regions that cost no bytes. classes.py CACHE FIT.npz OUT.npz

    y_hat of crops at all qualities, mean of 3x3 cells --ridge regression--> colors and semantic features --k-means--> codebook
The nearest center c of a prediction p = W y + b is the largest of 2 c.p - |c|^2: a linear function of y_hat.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from priorcodec.core.codec import Codec
from recipes.semantic.fit import box, kmeans

CROPS = 600
CLASSES = 16


def main() -> None:
    torch.set_num_threads(1)
    cache, fit, out = Path(sys.argv[1]), np.load(sys.argv[2]), Path(sys.argv[3])
    rng = np.random.default_rng(6)
    y = np.load(cache / "y.npy", mmap_mode="r")
    codec = Codec()
    decoded = []
    for i in range(CROPS):
        byte = int(rng.integers(16 * (codec.levels - 1) + 1))
        levels = torch.tensor([byte / 16])
        with torch.inference_mode():
            y_q, z = codec.transforms.scaled(torch.from_numpy(y[i].astype(np.float32))[None], levels)
            y_hat_q, _ = codec.entropy_model.quantize(y_q[0].numpy(), z[0].numpy(), byte, lambda *_: None)
            decoded.append(box(codec.transforms.dequantize(torch.from_numpy(y_hat_q)[None], levels))[0].numpy())
    a = np.stack(decoded).transpose(0, 2, 3, 1).reshape(-1, y.shape[1]).astype(np.float64)
    b = fit["features"][:CROPS].reshape(len(a), -1).astype(np.float64)
    mean, target = a.mean(0), b.mean(0)
    gram = (a - mean).T @ (a - mean)
    gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    weight = np.linalg.solve(gram, (a - mean).T @ (b - target))
    predicted = (a - mean) @ weight + target
    print("explained", np.round(1 - np.square(predicted - b).mean(0) / b.var(0), 2))
    centers = kmeans(predicted[rng.permutation(len(predicted))[:40000]], CLASSES, rng)
    norm = np.square(centers).sum(1)
    score = 2 * predicted @ centers.T - norm
    print(
        "shares of the classes",
        np.round(np.sort(np.bincount(score.argmax(1), minlength=CLASSES) / len(score))[::-1], 3),
    )
    class_weight = 2 * centers @ weight.T
    np.savez(out, weight=class_weight, bias=2 * centers @ (target - mean @ weight) - norm)


if __name__ == "__main__":
    main()
