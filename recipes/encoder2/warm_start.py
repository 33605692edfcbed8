"""Encoder 2 from the shipped encoder: live channels ordered by their bits, more levels, every pass starts as the old one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from priorcodec.core.entropy.entropy_model import gaussian_bits
from priorcodec.core.entropy.integer import round_ste
from priorcodec.core.weights import load_simulation
from recipes.encoder2.transforms import Encoder2Config, ImageEncoder2

BELOW = 3  # new levels under the shipped level 0


def extended(table: Tensor, levels: int) -> Tensor:
    """Rows of `table` continued in a straight line: BELOW rows before it, the rest behind."""
    slope_low, slope_high = (table[2] - table[0]) / 2, (table[-1] - table[-3]) / 2
    rows = []
    for level in range(levels):
        k = level - BELOW
        if k < 0:
            rows.append(table[0] + k * slope_low)
        elif k >= len(table):
            rows.append(table[-1] + (k - len(table) + 1) * slope_high)
        else:
            rows.append(table[k])
    return torch.stack(rows)


@torch.no_grad()
def warm_start(path: Path, crops: Tensor, config: Encoder2Config) -> ImageEncoder2:
    """Shipped weights at `path` and some training crops (b, 3, 256, 256) in [-1, 1] -> the new model."""
    old = load_simulation(path)
    y = torch.cat([old.g_a(x) for x in crops.split(16)])
    score, mean_value = torch.zeros(old.config.m), torch.zeros(old.config.m)
    for level in range(old.config.levels):
        q = torch.full((len(y),), float(level))
        y_q, z = old.scaled(y, q)
        z_mean, _ = old.entropy_model.hyper_parameters(q)
        mean, index = old.entropy_model(y_q, old.entropy_model.features(round_ste(z - z_mean) + z_mean, q))
        symbols = round_ste(y_q - mean)
        bits = gaussian_bits(symbols, index).sum((0, 2, 3))
        score += bits / bits.sum() / (2.0 ** (0.5 * level)) * 4
        mean_value += old.dequantize(symbols + mean, q).mean((0, 2, 3)) / old.config.levels
        order = bits.argsort(descending=True)
        share = bits[order].cumsum(0) / bits.sum()
        print(f"level {level}: share of the bits", {k: f"{share[k - 1]:.4f}" for k in (8, 16, 32, 64, 96, 112, 128)})
    keep = score.argsort(descending=True)[: config.m]
    dropped = torch.ones(old.config.m, dtype=torch.bool)
    dropped[keep] = False
    torch.manual_seed(0)
    new = ImageEncoder2(config)
    state, src = new.state_dict(), old.state_dict()

    def put(name: str, value: Tensor) -> None:
        assert state[name].shape == value.shape, (name, state[name].shape, value.shape)
        state[name] = value.clone()

    for name in state:
        if name.startswith("g_a.") and not name.startswith("g_a.6") and name in src:
            put(name, src[name])
        if name.startswith("h_a.") and not name.startswith("h_a.0.weight"):
            put(name, src[name])
        if name.startswith("entropy.h_s."):
            put(name, src["entropy_model" + name.removeprefix("entropy")])
    put("g_a.6.weight", src["g_a.6.weight"][keep])
    put("g_a.6.bias", src["g_a.6.bias"][keep])
    put("h_a.0.weight", src["h_a.0.weight"][:, keep])
    for name in ("log_gain", "log_inverse", "log_hyper_gain"):
        table = src[name] if "hyper" in name else src[name][:, keep]
        put(name, extended(table, config.levels))
    for name in ("quality_bias", "z_index", "z_mean"):
        put(f"entropy.{name}", extended(src[f"entropy_model.{name}"], config.levels))
    cross = torch.zeros(3, 3)
    cross[[0, 1, 1, 2], [1, 0, 2, 1]] = 1  # what the first encoder's context saw: the anchors beside a position
    context, start = src["entropy_model.context.weight"][:, keep] * cross, 0
    for g, c in enumerate(config.groups):
        rows = torch.cat([keep[start : start + c], old.config.m + keep[start : start + c]])
        for ours, theirs in (("anchor", "anchor"), ("other", "other")):
            for kind in ("weight", "bias"):
                put(f"entropy.{ours}.{g}.last.{kind}", src[f"entropy_model.{theirs}.1.{kind}"][rows])
            put(f"entropy.{ours}.{g}.first.bias", src[f"entropy_model.{theirs}.0.bias"])
        put(f"entropy.other.{g}.first.weight", src["entropy_model.other.0.weight"])
        put(f"entropy.other.{g}.context.weight", context[:, : start + c])
        put(f"entropy.other.{g}.context.bias", src["entropy_model.context.bias"])
        weight = state[f"entropy.anchor.{g}.first.weight"].clone()
        weight[:, : config.n] = src["entropy_model.anchor.0.weight"]
        put(f"entropy.anchor.{g}.first.weight", weight)
        if g:
            put(f"entropy.anchor.{g}.context.weight", torch.zeros_like(state[f"entropy.anchor.{g}.context.weight"]))
        start += c
    names = {"head": 0, "blocks16": 1, "up.0": 2, "blocks8": 4, "tail.0": 5}
    for decoder in ("g_s", "g_p"):
        for ours, theirs in names.items():
            for key in [k for k in src if k.startswith(f"g_s.{theirs}.")]:
                value = src[key]
                if ours == "head" and key.endswith("weight"):
                    value = value[:, keep]
                if ours == "head" and key.endswith("bias"):
                    value = value + (src["g_s.0.weight"][:, dropped].sum((2, 3)) @ mean_value[dropped])
                put(f"{decoder}.{ours}.{key.removeprefix(f'g_s.{theirs}.')}", value)
    new.load_state_dict(state)
    return new


if __name__ == "__main__":
    from recipes.encoder2.crops import Crops

    shipped, cache, target = map(Path, sys.argv[1:4])
    crops = Crops(cache, seed=11).batch(0, 160, 256, enlarged=0.2).float() / 127.5 - 1
    model = warm_start(shipped, crops, Encoder2Config())
    torch.save(model.state_dict(), target)
    print("saved", target, f"{np.sum([p.numel() for p in model.parameters()]) / 1e6:.2f} M parameters")
