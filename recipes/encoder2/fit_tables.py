"""Integer tables fitted to counted symbols: fit_tables.py CHECKPOINT CACHE TARGET.safetensors [crops].

The symbols of training crops at every level are counted per table index, latent and hyper-latent apart, made symmetric, and mixed
with `PSEUDO` counts of the Gaussian; indices seen rarely keep the Gaussian. Rows are cumulative frequencies of 16 bits:
`2 * reach + 1` symbols, then the escape.
TARGET: y_cdf, z_cdf (64, longest), *_cdf_length, *_cdf_offset (64,), int32, and the counts themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from priorcodec.core.entropy.entropy_model import scale_of
from priorcodec.core.entropy.tables import PRECISION, SCALES, TAIL, quantized_cdf
from recipes.encoder2.context import exact_bits
from recipes.encoder2.crops import Crops
from recipes.encoder2.evaluate import load
from recipes.encoder2.transforms import ImageEncoder2

REACH = 300  # counted symbols: -REACH to REACH, those beyond at the ends
PSEUDO = 50.0
SEEN = 2000  # counts below which a row keeps the Gaussian


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


def fitted(count: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (SCALES, 2 REACH + 1) -> cdf (SCALES, longest), cdf_length, cdf_offset, as in `tables`."""
    rows, reaches = [], []
    for i, scale in enumerate(scale_of(torch.arange(SCALES).double()).tolist()):
        reach = min(REACH - 1, max(1, round(TAIL * scale)))
        k = torch.arange(-reach, reach + 1).double()
        gauss = (torch.special.ndtr((k + 0.5) / scale) - torch.special.ndtr((k - 0.5) / scale)).numpy()
        inside, seen = count[i, REACH - reach : REACH + reach + 1], count[i].sum()
        inside = (inside + inside[::-1]) / 2
        mixed = seen >= SEEN
        p = (inside + PSEUDO * gauss) / (seen + PSEUDO) if mixed else gauss
        tail = (seen - inside.sum() + 0.5) / (seen + PSEUDO) if mixed else 1 - gauss.sum()
        while reach > 1 and p[0] < 2e-5:  # a reserved frequency would cost more than the escape ever does
            tail, p, reach = tail + 2 * p[0], p[1:-1], reach - 1
        p = np.append(p, max(tail, 1e-9))
        rows.append(quantized_cdf(p / p.sum()))
        reaches.append(reach)
    table = np.zeros((SCALES, max(map(len, rows))), dtype=np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table, np.array([len(r) for r in rows], np.int32), -np.array(reaches, np.int32)


def table_bits(table: np.ndarray, offset: np.ndarray, symbols: np.ndarray, index: np.ndarray) -> float:
    """Bits of symbols under their tables; an escaped symbol adds an Exp-Golomb code of what lies beyond."""
    r = -offset[index]
    outside = np.abs(symbols) > r
    entry = np.where(outside, 2 * r + 1, symbols + r)
    frequency = table[index, entry + 1] - table[index, entry]
    beyond = np.abs(symbols)[outside] - r[outside]
    return float((PRECISION - np.log2(frequency)).sum() + (2 + 2 * np.floor(np.log2(np.maximum(beyond, 1)))).sum())


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
        table, length, offset = fitted(count)
        out |= {
            f"{kind}_cdf": torch.from_numpy(table),
            f"{kind}_cdf_length": torch.from_numpy(length),
            f"{kind}_cdf_offset": torch.from_numpy(offset),
        }
    save_file({k: v.contiguous() for k, v in out.items()}, target)
    total = y_count.sum()
    for i in range(12):
        seen, zero = y_count[i].sum(), y_count[i, REACH]
        print(f"index {i}: {seen / total:.3%} of the symbols, not zero {(seen - zero) / max(1, seen):.2e}")


if __name__ == "__main__":
    main()
