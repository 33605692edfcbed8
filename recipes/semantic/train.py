"""Train the texture encoder and the renderer together, regions given: train.py CACHE FIT.npz MAPS.npz OUT.pt --minutes 50

Absolute error of the pixels alone for the first 30% of the time, then with feature distances on EfficientNet-Lite0 and the error
that repeats from block to block. Values of regions get uniform noise of a quantization step, and a price on their size.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from priorcodec.core.layers import texture
from priorcodec.core.layers.renderer import NOISE, Renderer, TextureEncoder
from priorcodec.core.layers.structure import MOST_REGIONS
from priorcodec.training.losses import periodic_artifact
from priorcodec.training.perceptual import Features, View, dists_form, lpips_form

STEPS = [step / 256 for step in texture.STEPS[2:7]]


def scatter_mean(index: Tensor, value: Tensor, count: int) -> Tensor:
    """index (n,), value (n, c) -> means (count, c)."""
    total = value.new_zeros(count, value.shape[1]).index_add_(0, index, value)
    number = value.new_zeros(count).index_add_(0, index, torch.ones_like(index, dtype=value.dtype))
    return total / number.clamp_min(1)[:, None]


def painted(
    labels: Tensor, explicit: Tensor, right: Tensor, down: Tensor, features: Tensor, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`texture.painted` for a batch, differentiable in the features; noise: as the values, added to them.

    Args:
        labels (b, h, w); explicit (b, MOST_REGIONS, 5); right, down (b, h, w); features (b, 11, h, w).
    """
    b, h, w = labels.shape
    index = (labels + torch.arange(b)[:, None, None] * MOST_REGIONS).reshape(-1)
    learned = scatter_mean(index, features.permute(0, 2, 3, 1).reshape(b * h * w, -1), b * MOST_REGIONS)
    values = torch.cat([explicit.reshape(b * MOST_REGIONS, -1), learned], 1)
    used = values[index]
    if noise is not None:
        values = values + noise
    cells = values[index].reshape(b, h, w, -1).permute(0, 3, 1, 2)
    y = cells[:, :1] + right[:, None] * cells[:, 3:4] + down[:, None] * cells[:, 4:5]
    return torch.cat([y, cells[:, 1:]], 1), used[:, texture.PLANE :]


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("cache", type=Path)
    p.add_argument("fit", type=Path)
    p.add_argument("maps", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--minutes", type=float, default=50)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--lr", type=float, default=2e-3)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    x, y = (np.load(a.cache / f"{name}.npy", mmap_mode="r") for name in "xy")
    maps = np.load(a.maps)
    labels, explicit, right, down = (torch.from_numpy(maps[k]) for k in ("labels", "explicit", "right", "down"))
    encoder, renderer, lite0 = TextureEncoder(y.shape[1]), Renderer(), Features.lite0(16)
    scale = torch.from_numpy(y[:200].astype(np.float32)).std((0, 2, 3))
    with torch.no_grad():
        next(encoder.parameters()).div_(scale[None, :, None, None])
    parameters = [*encoder.parameters(), *renderer.parameters()]
    average = [v.detach().clone() for v in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=a.lr, betas=(0.9, 0.99), weight_decay=0.0)
    renderer.to(memory_format=torch.channels_last)
    began, step, log = time.time(), 0, []
    while (share := (time.time() - began) / 60 / a.minutes) < 1:
        rng = np.random.default_rng([11, step])
        early = share < 0.3
        count = 2 * a.batch if early else a.batch
        at = rng.permutation(len(x))[:count]
        target = (
            torch.from_numpy(x[np.sort(at)]).float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        )
        at = torch.from_numpy(np.sort(at))
        features = encoder(torch.from_numpy(y[at.numpy()].astype(np.float32)))
        step_size = float(rng.choice(STEPS))
        noise = (torch.rand(count * MOST_REGIONS, texture.CHANNELS) - 0.5) * step_size
        planes, used = painted(labels[at].long(), explicit[at], right[at], down[at], features, noise)
        random_planes = torch.randn(count, 4 * NOISE, *planes.shape[2:])
        x_hat = renderer(torch.cat([planes, random_planes], 1))
        pixel = (x_hat - target).abs().mean()
        price = torch.log2(1 + used.abs() / 0.5).mean()
        loss = pixel + 0.002 * price
        d = repeated = torch.zeros(())
        if not early:
            both = View.draw(random.Random(step), target.shape[-2:], 160)(torch.cat([x_hat, target]))
            fake = lite0(both[:count])
            with torch.no_grad():
                real = lite0(both[count:])
            d = (lpips_form(fake, real) + 0.5 * dists_form(fake, real)).mean()
            repeated = periodic_artifact(x_hat, target)
            loss = loss + 0.5 * d + 10 * repeated
        for group in optimizer.param_groups:
            group["lr"] = a.lr * min(1, (step + 1) / 30) * (1 if share < 0.6 else max(0.02, (1 - share) / 0.4))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.995, step / (step + 20))
        with torch.no_grad():
            for mean, value in zip(average, parameters, strict=True):
                mean.lerp_(value, 1 - decay)
        log.append([v.item() for v in (pixel, price, d, repeated)])
        if step % 50 == 0:
            print(step, round((time.time() - began) / 60, 1), np.round(np.mean(log[-50:], 0), 4), flush=True)
        if step % 100 == 0 or (time.time() - began) / 60 > a.minutes - 0.2:
            names = [f"encoder.{k}" for k, _ in encoder.named_parameters()] + [
                f"renderer.{k}" for k, _ in renderer.named_parameters()
            ]
            torch.save(dict(zip(names, average, strict=True)) | {"steps": torch.tensor(step)}, a.out)
    print("done", step)


if __name__ == "__main__":
    main()
