"""Maps of regions for all crops, and the counts that coding them starts from. maps.py FIT.npz OUT.npz --border 1.0 --region 6"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from priorcodec.core.entropy.adaptive import GROWTH, Decisions
from priorcodec.core.layers import structure, texture
from priorcodec.core.layers.segmentation import segment

WEIGHTS = (2, 4, 8, 16, 32)


def decisions(labels: np.ndarray) -> list[tuple[int, int]]:
    """(context, bit) of every decision that a map takes."""
    found: list[tuple[int, int]] = []

    def bit(context: int, value: int) -> int:
        found.append((context, value))
        return value

    known = labels.tolist()
    rows, columns = labels.shape
    structure.walk(rows, columns, bit, lambda _, value: value, lambda r, c: known[r][c])
    return found


def start(maps: list[list[tuple[int, int]]], weight: int) -> np.ndarray:
    """Counts of all maps, scaled to at most `weight` decisions a context: uint16 (CONTEXTS, 2)."""
    counts = np.zeros((structure.CONTEXTS, 2))
    for one in maps:
        np.add.at(counts, tuple(np.array(one).T), 1.0)
    counts[: 4 * structure.PATTERNS] += counts[: 4 * structure.PATTERNS].sum(0) / counts.sum() * 0.5
    counts += 0.05
    total = counts.sum(1, keepdims=True)
    return np.maximum(np.round(counts / total * np.minimum(total, weight) * GROWTH), 1).astype(np.uint16)


def bits(maps: list[list[tuple[int, int]]], counts: np.ndarray) -> float:
    """What the decisions of each map cost, in sum."""
    total = 0.0
    for one in maps:
        model = Decisions(counts)
        for context, bit in one:
            p = model.frequency(context) / 65536
            total -= np.log2(p if bit else 1 - p)
            model.learn(context, bit)
    return total


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("fit", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--border", type=float, default=1.0)
    p.add_argument("--region", type=float, default=6.0)
    a = p.parse_args()
    fit = np.load(a.fit)
    features, colors = fit["features"].astype(np.float32), fit["colors"]
    labels = np.stack([segment(f, border=a.border, region=a.region) for f in features])
    explicit = np.zeros((len(labels), structure.MOST_REGIONS, texture.PLANE), np.float32)
    right, down = (np.zeros(labels.shape, np.float32) for _ in range(2))
    none = np.zeros((*labels.shape[1:], texture.CHANNELS - texture.PLANE))
    for i, (one, color) in enumerate(zip(labels, colors, strict=True)):
        explicit[i, : structure.regions(one)] = texture.measure(one, color, none)[:, : texture.PLANE]
        right[i], down[i] = (at.reshape(one.shape) for at in texture.positions(one))
    every = [decisions(one) for one in labels]
    held, rest = every[::10], [one for i, one in enumerate(every) if i % 10]
    costs = {weight: bits(held, start(rest, weight)) / len(held) for weight in WEIGHTS}
    print("regions", np.mean([structure.regions(one) for one in labels]), "bits a map by weight", costs)
    best = min(costs, key=lambda weight: costs[weight])
    np.savez(a.out, labels=labels, explicit=explicit, right=right, down=down, start=start(every, best))


if __name__ == "__main__":
    main()
