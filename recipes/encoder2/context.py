"""Train the entropy model of encoder 2 alone, on cached y of frozen transforms: context.py START TARGET MINUTES LR muon|adam."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from priorcodec.core.entropy.entropy_model import gaussian_bits
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.transforms import EncoderConfig
from recipes.encoder2.crops import Crops
from recipes.encoder2.muon import MuonAdam
from recipes.encoder2.transforms import ImageEncoder2

BATCH = 8
SCHEDULE = LambdaSchedule()
PIXEL = 5300.0  # squared error of 8-bit values per squared error of y, measured between levels of the shipped encoder


def cached(model: ImageEncoder2, cache: Path, target: Path, count: int) -> Tensor:
    """y (count, m, 16, 16) in half precision, computed once into `target`."""
    if target.exists():
        return torch.load(target)
    crops, out = Crops(cache, seed=3), []
    with torch.inference_mode():
        for k in range(count // 16):
            x = crops.batch(k, 16, 256, enlarged=0.2).float() / 127.5 - 1
            out.append(model.analyze(x.contiguous(memory_format=torch.channels_last), autocast=True).half())
    y = torch.cat(out)
    torch.save(y, target)
    return y


def exact_bits(offset: Tensor, index: Tensor, uniform: object) -> Tensor:
    return gaussian_bits(torch.floor(offset + 0.5), torch.floor(index + 0.5))


@torch.no_grad()
def evaluate(model: ImageEncoder2, y: Tensor, certain: int) -> list[str]:
    out = []
    for level in range(0, model.config.levels, 2):
        q = torch.full((len(y),), float(level))
        c = model.code_latent(y.float(), q, bits=exact_bits, certain=certain)
        error = ((c.y_hat - y.float()) ** 2).mean().item()
        out.append(f"{level}: {c.y_bits.mean() / 65536:.4f}+{c.z_bits.mean() / 65536:.4f} e{error:.4f}")
    return out


def main(start: Path, target: Path, minutes: float, lr: float, muon: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ImageEncoder2(EncoderConfig())
    saved = torch.load(start)
    model.load_state_dict(saved.get("model", saved))
    model.to(memory_format=torch.channels_last)  # pyright: ignore
    runs = target.parent
    y = cached(model, runs.parent / "cache" / "train", runs / "y.pt", 4480)
    held, y = y[:64], y[64:]
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(("entropy.", "h_a.", "log_hyper")))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    opt = MuonAdam(named, lr, muon=muon)
    began, step, total = time.time(), 0, 0.0
    generator = torch.Generator().manual_seed(5)
    top = model.config.levels - 1
    while (done := (time.time() - began) / 60 / minutes) < 1:
        for group in opt.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 30) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
        batch = (
            y[torch.randint(len(y), (BATCH,), generator=generator)]
            .float()
            .contiguous(memory_format=torch.channels_last)
        )
        q = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH * top
        c = model.code_latent(batch, q, autocast=True, certain=0)
        error = ((c.y_hat - batch) ** 2).mean((1, 2, 3))
        loss = (((c.y_bits + c.z_bits) / 65536 + SCHEDULE.lambdas(q) * PIXEL * error) * SCHEDULE.weights(q)).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        opt.step()
        step, total = step + 1, total + loss.item()
        if step % 200 == 0:
            torch.save(model.state_dict(), target)
        if step % 50 == 0:
            print(step, f"{(time.time() - began) / 60:.2f} min, loss {total / 50:.5f}", flush=True)
            total = 0.0
    torch.save(model.state_dict(), target)
    print("held out", evaluate(model, held, 0), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == "muon")
