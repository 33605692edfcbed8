"""Integer tables fitted to counted symbols: fit_tables.py CHECKPOINT CACHE TARGET.safetensors [crops].

The symbols of training crops at every level are counted per table index, latent and hyper-latent apart;
`priorcodec.core.entropy.fitting` makes the tables, as for a release, but from the symbols of the training networks.
TARGET: y_cdf, z_cdf (64, longest), *_cdf_length, *_cdf_offset (64,), int32, and the counts themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from priorcodec.core.entropy.coder import LENGTH_BITS
from priorcodec.core.entropy.fitting import REACH, fitted
from priorcodec.core.entropy.tables import PRECISION, SCALES, table_set
from recipes.encoder2.context import exact_bits
from recipes.encoder2.crops import Crops
from recipes.encoder2.evaluate import load
from recipes.encoder2.transforms import ImageEncoder2


def counts(model: ImageEncoder2, x: Tensor, levels: list[float], certain: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops (b, 3, h, w) in [-1, 1] -> counts (SCALES, 2 REACH + 1) of latent and of hyper-latent symbols."""
    found = np.zeros((2, SCALES, 2 * REACH + 1))
    with torch.inference_mode():
        for part in x.split(16):
            y = model.analyze(part.contiguous(memory_format=torch.channels_last))
            for level in levels:
                c = model.code_latent(y, torch.full((len(y),), level), bits=exact_bits, certain=certain)
                for kind, symbols, index in ((0, c.symbols, c.index), (1, c.z_symbols, c.z_index)):
                    i = torch.floor(index + 0.5).long().flatten()
                    s = symbols.round().long().clamp(-REACH, REACH).flatten() + REACH
                    keep = i >= (certain if kind == 0 else 0)
                    flat = torch.bincount((i * (2 * REACH + 1) + s)[keep], minlength=found[0].size)
                    found[kind] += flat.view(SCALES, -1).numpy()
    return found[0], found[1]


def table_bits(table: np.ndarray, offset: np.ndarray, symbols: np.ndarray, index: np.ndarray) -> float:
    """Bits of symbols under their tables, and of what an escaped symbol lies beyond them: as `coder.Encoder.add` counts."""
    r = -offset[index]
    outside = np.abs(symbols) > r
    entry = np.where(outside, 2 * r + 1, symbols + r)
    frequency = table[index, entry + 1] - table[index, entry]
    distance = 2 * (np.abs(symbols) - r)[outside] - (symbols[outside] > 0)
    return float((PRECISION - np.log2(frequency)).sum() + (LENGTH_BITS + np.floor(np.log2(distance))).sum())


def main() -> None:
    torch.set_num_threads(1)
    checkpoint, cache, target = map(Path, sys.argv[1:4])
    number = int(sys.argv[4]) if len(sys.argv) > 4 else 200
    model, _ = load(checkpoint)
    crops = Crops(cache, seed=4242)
    x = torch.cat([crops.batch(k, 8, 256, enlarged=0.2) for k in range(number // 8)]).float() / 127.5 - 1
    y_count, z_count = counts(model, x, [float(k) for k in range(model.config.levels)], 0)
    out = {"y_counts": torch.from_numpy(y_count).int(), "z_counts": torch.from_numpy(z_count).int()}
    for kind, count in (("y", y_count), ("z", z_count)):
        out |= {name: torch.from_numpy(value) for name, value in table_set(kind, fitted(count)).items()}
    save_file({k: v.contiguous() for k, v in out.items()}, target)
    total = y_count.sum()
    for i in range(12):
        seen, zero = y_count[i].sum(), y_count[i, REACH]
        print(f"index {i}: {seen / total:.3%} of the symbols, not zero {(seen - zero) / max(1, seen):.2e}")


if __name__ == "__main__":
    main()
