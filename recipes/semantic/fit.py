"""What regions are made of. fit.py CACHE OUT.npz

EfficientNet-Lite0's features --PCA--> 8 numbers a cell <--ridge regression-- y; with the cell's color, features of regions
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from priorcodec.core.layers import texture
from priorcodec.core.statistics import TO_YCC

COMPONENTS = 8
SPREAD = 0.5  # standard deviation of the semantic features that regions are made of, in units of the colors'


def box(y: torch.Tensor) -> torch.Tensor:
    """Mean of 3x3 cells; the border repeats."""
    return F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), 3, 1)


def colors(x: np.ndarray) -> np.ndarray:
    """uint8 (n, 3, h, w) -> mean Y, Cb, Cr of each cell (n, h/16, w/16, 3), Cb and Cr less 128."""
    n, _, h, w = x.shape
    cells = x.reshape(n, 3, h // 16, 16, w // 16, 16).mean((3, 5), dtype=np.float64)
    return np.einsum("ij,njhw->nhwi", np.array(TO_YCC), cells).astype(np.float32)


def kmeans(values: np.ndarray, count: int, rng: np.random.Generator, rounds: int = 30) -> np.ndarray:
    centers = values[rng.permutation(len(values))[:count]].copy()
    for _ in range(rounds):
        nearest = ((values**2).sum(1)[:, None] - 2 * values @ centers.T + (centers**2).sum(1)).argmin(1)
        for k in range(count):
            if (nearest == k).any():
                centers[k] = values[nearest == k].mean(0)
    return centers


def main() -> None:
    torch.set_num_threads(1)
    cache, out = Path(sys.argv[1]), Path(sys.argv[2])
    rng = np.random.default_rng(5)
    x, y, f = (np.load(cache / f"{name}.npy", mmap_mode="r") for name in "xyf")
    n = len(x)
    smooth = box(torch.from_numpy(y[:].astype(np.float32))).permute(0, 2, 3, 1).reshape(-1, y.shape[1]).numpy()
    target = box(torch.from_numpy(f[:].astype(np.float32)))
    target = target.permute(0, 2, 3, 1).reshape(-1, f.shape[1]).numpy()
    target = (target - target.mean(0)) / (target.std(0) + 1e-6)
    _, _, axes = np.linalg.svd(target[rng.permutation(len(target))[:40000]], full_matrices=False)
    pca = target @ axes[:24].T
    mean = smooth.mean(0)
    gram = (smooth - mean).T @ (smooth - mean)
    gram += np.eye(len(gram)) * 1e-3 * np.trace(gram) / len(gram)
    weight = np.linalg.solve(gram, (smooth - mean).T @ pca[:, :COMPONENTS])
    predicted = (smooth - mean) @ weight
    residual = ((predicted - pca[:, :COMPONENTS]) ** 2).mean(0) / pca[:, :COMPONENTS].var(0)
    print("share of the components' variance that y predicts:", np.round(1 - residual, 2))
    weight = weight / predicted.std(0) * SPREAD
    bias = -mean @ weight
    semantic = (smooth @ weight + bias).reshape(n, *y.shape[2:], COMPONENTS)

    ycc = colors(x[:])
    features = np.concatenate([ycc / np.array(texture.UNIT[:3], np.float32), semantic.astype(np.float32)], -1)
    np.savez(out, segment_weight=weight.T, segment_bias=bias, features=features.astype(np.float16), colors=ycc)


if __name__ == "__main__":
    main()
