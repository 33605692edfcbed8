"""Two other ways to train the texture layer.   python benchmarks/texture_training.py CACHE [--steps 120]

CACHE: x.npy, y.npy (recipes/semantic/prepare.py), maps.npz and train.pt (maps.py, train.py). Three copies of the trained texture
encoder and renderer go on for equally many steps on the same crops, with the losses of recipes/semantic/train.py:
    plain       as it is: a region's learned values are means of its cells
    attention   weighted means, exp of a linear function of y, which starts at zero
    coherency   plain, and distances of two crops' painted values proportional to those of their pixels (LCIC)
The last crops are left out and judge the result: absolute error, distance of EfficientNet-Lite0, price of the values.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import resultfile
import torch
from torch import Tensor, nn

from priorcodec.core.layers import texture
from priorcodec.core.layers.renderer import NOISE, Renderer, TextureEncoder
from priorcodec.core.layers.structure import MOST_REGIONS
from priorcodec.training.losses import periodic_artifact
from priorcodec.training.perceptual import Features, View, dists_form, lpips_form
from recipes.semantic.train import STEPS, painted, scatter_mean

ARMS = ("plain", "attention", "coherency")
BATCH, LR = 4, 5e-4
HELD = 48
COHERENCY, SLACK = 0.1, 0.1  # weight; what is added to both distances


class Arm(nn.Module):
    """A texture encoder and renderer with what one of the ways adds."""

    def __init__(self, name: str, m: int, state: dict[str, Tensor]):
        super().__init__()
        self.name, self.encoder, self.renderer, self.attention = name, TextureEncoder(m), Renderer(), nn.Conv2d(m, 1, 1)
        for prefix, network in (("encoder.", self.encoder), ("renderer.", self.renderer)):
            network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)  # pyright: ignore
        self.renderer.to(memory_format=torch.channels_last)  # pyright: ignore

    def features(self, y: Tensor, labels: Tensor) -> Tensor:
        """-> (b, 11, h, w), whose plain means of regions are the learned values."""
        features = self.encoder(y)
        if self.name != "attention":
            return features
        weight = self.attention(y).clamp(-4, 4).exp()
        b, _, h, w = features.shape
        index = (labels + torch.arange(b)[:, None, None] * MOST_REGIONS).reshape(-1)
        mean = scatter_mean(index, weight.reshape(-1, 1), b * MOST_REGIONS)[index].reshape(b, 1, h, w)
        return features * weight / mean

    def forward(
        self, parts: list[Tensor], y: Tensor, noise: Tensor | None, draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> images, learned values of every cell, painted values."""
        labels, explicit, right, down = parts
        planes, used = painted(labels, explicit, right, down, self.features(y, labels), noise)
        return self.renderer(torch.cat([planes, draws], 1)), used, planes


def incoherence(planes: Tensor, target: Tensor) -> Tensor:
    """How far the ratio of distances in pixels and in values is from the same for all pairs of a batch."""
    i, j = torch.triu_indices(len(planes), len(planes), 1)
    code, pixel = ((v[i] - v[j]).abs().flatten(1).mean(1) for v in (planes, target))
    ratio = (pixel.mean() / code.mean()).detach()
    return ((pixel + SLACK * ratio) / (code + SLACK) / ratio - 1).square().mean()


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("cache", type=Path)
    cli.add_argument("--steps", type=int, default=120)
    given = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(2)
    x, y = (np.load(given.cache / f"{name}.npy", mmap_mode="r") for name in "xy")
    maps = np.load(given.cache / "maps.npz")
    parts = [torch.from_numpy(maps[k]) for k in ("labels", "explicit", "right", "down")]
    parts[0] = parts[0].long()
    state, lite0 = torch.load(given.cache / "train.pt"), Features.lite0(16)
    arms = [Arm(name, y.shape[1], state) for name in ARMS]
    optimizers = [torch.optim.AdamW(arm.parameters(), lr=LR, betas=(0.9, 0.99), weight_decay=0.0) for arm in arms]

    def batch(at: np.ndarray) -> tuple[Tensor, Tensor, list[Tensor]]:
        target = torch.from_numpy(x[at]).float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        return target, torch.from_numpy(y[at].astype(np.float32)), [p[torch.from_numpy(at)] for p in parts]

    for step in range(given.steps):
        rng = np.random.default_rng([31, step])
        target, features, chosen = batch(np.sort(rng.permutation(len(x) - HELD)[:BATCH]))
        noise = (torch.rand(BATCH * MOST_REGIONS, texture.CHANNELS) - 0.5) * float(rng.choice(STEPS))
        draws = torch.randn(BATCH, 4 * NOISE, *features.shape[2:])
        with torch.no_grad():
            real = lite0(View.draw(random.Random(step), target.shape[-2:], 160)(target))
        for arm, optimizer in zip(arms, optimizers, strict=True):
            x_hat, used, planes = arm(chosen, features, noise, draws)
            fake = lite0(View.draw(random.Random(step), target.shape[-2:], 160)(x_hat))
            d = (lpips_form(fake, real) + 0.5 * dists_form(fake, real)).mean()
            loss = (x_hat - target).abs().mean() + 0.5 * d + 10 * periodic_artifact(x_hat, target)
            loss = loss + 0.002 * torch.log2(1 + used.abs() / 0.5).mean()
            if arm.name == "coherency":
                loss = loss + COHERENCY * incoherence(planes, target)
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1, (step + 1) / 10, max(0.05, 1.6 * (1 - step / given.steps)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(arm.parameters(), 1.0)
            optimizer.step()
        if step % 20 == 19:
            print(step + 1, flush=True)
    rows = []
    with torch.no_grad():
        for name, arm in zip(("before", *ARMS), (Arm("plain", y.shape[1], state), *arms), strict=True):
            found = []
            for start in range(len(x) - HELD, len(x), BATCH):
                target, features, chosen = batch(np.arange(start, start + BATCH))
                draws = torch.randn(
                    BATCH, 4 * NOISE, *features.shape[2:], generator=torch.Generator().manual_seed(start)
                )
                x_hat, used, planes = arm(chosen, features, None, draws)
                fake, real = lite0(x_hat), lite0(target)
                price = torch.log2(1 + used.abs() / 0.5).mean()
                values = (
                    (x_hat - target).abs().mean(),
                    lpips_form(fake, real).mean(),
                    dists_form(fake, real).mean(),
                    price,
                )
                found.append([float(v) for v in (*values, incoherence(planes, target))])
            names = ("error", "lite0_lpips", "lite0_dists", "price", "incoherence")
            means = dict(zip(names, np.round(np.mean(found, 0), 5).tolist(), strict=True))
            rows.append({"training": name, "steps": 0 if name == "before" else given.steps, "crops": HELD, **means})
            print(rows[-1], flush=True)
    resultfile.write("texture_training", "texture_training", {"rows": rows})


if __name__ == "__main__":
    main()
