"""Joint training of encoder 2: R + lambda (MSE + perceptual), half of each batch through g_s, half through g_p.

    python -m recipes.encoder2.train RUN --cache PACKED --start INIT --minutes 60 [--perceptual 1] ...
Everything random is a function of (seed, step). RUN holds checkpoint.pt (all needed to go on), log.txt, a copy of the scripts.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch

from priorcodec.core.entropy.tables import CERTAIN
from priorcodec.core.precision import autocast
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.transforms import EncoderConfig
from priorcodec.training.losses import periodic_artifact
from recipes.encoder2.crops import Crops
from recipes.encoder2.muon import MuonAdam
from recipes.encoder2.transforms import ImageEncoder2

SCHEDULE = LambdaSchedule()


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("run", type=Path)
    p.add_argument("--cache", type=Path, required=True, help="packed images without suffix")
    p.add_argument("--start", type=Path, help="state dict to start from when RUN has no checkpoint")
    p.add_argument("--minutes", type=float, default=60, help="of this call")
    p.add_argument("--hold", type=float, default=0.5, help="share of this call at the full learning rate")
    p.add_argument("--final", type=float, default=0.02, help="share of the learning rate left at the end")
    p.add_argument("--lr", type=float, default=5e-4)
    p.add_argument("--warm", type=int, default=60, help="steps over which the learning rate rises")
    p.add_argument("--optimizer", choices=("muon", "adam"), default="muon")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--crop", type=int, default=256)
    p.add_argument("--enlarged", type=float, default=0.2)
    p.add_argument(
        "--perceptual", type=float, default=0.0, help="weight of the perceptual distance, 1: 500 squared error"
    )
    p.add_argument("--pixel", type=float, default=0.3, help="weight of squared error beside it")
    p.add_argument(
        "--repetition", type=float, default=7.0, help="periodic artifacts, in units of the perceptual distance"
    )
    p.add_argument("--side", type=int, default=160, help="side of the part that the feature networks see")
    p.add_argument("--fork", action="store_true", help="start g_p as a copy of g_s")
    p.add_argument("--certain", type=int, default=CERTAIN)
    p.add_argument("--ema", type=float, default=0.998)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, default=10**9)
    p.add_argument("--save-minutes", type=float, default=4)
    return p.parse_args()


def main() -> None:
    a = arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    a.run.mkdir(parents=True, exist_ok=True)
    model = ImageEncoder2(EncoderConfig())
    named = list(model.named_parameters())
    opt = MuonAdam(named, a.lr, muon=a.optimizer == "muon")
    average = {}
    step, minutes, path = 0, 0.0, a.run / "checkpoint.pt"
    resumes = path.exists()
    if resumes:
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        average, step, minutes = saved["average"], saved["step"], saved["minutes"]
        if saved["optimizer_kind"] == a.optimizer:
            opt.load_state_dict(saved["optimizer"])
    elif a.start:
        saved = torch.load(a.start)
        model.load_state_dict(saved.get("average", saved))
    if not average:
        average = {k: v.clone() for k, v in model.state_dict().items()}
    if a.fork and not resumes:
        model.g_p.load_state_dict(model.g_s.state_dict())
        average |= {k: average[k.replace("g_p.", "g_s.", 1)].clone() for k in average if k.startswith("g_p.")}
    model.to(memory_format=torch.channels_last)  # pyright: ignore
    perceptual = None
    if a.perceptual:
        from priorcodec.training.perceptual import PerceptualDistance

        perceptual = PerceptualDistance(side=a.side)
    for folder in ("recipes/encoder2", "priorcodec/core"):
        for file in Path(folder).rglob("*.py"):
            target = a.run / "scripts" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    crops, top = Crops(a.cache, seed=a.seed), model.config.levels - 1
    log = (a.run / "log.txt").open("a")
    log.write(f"# {a}\n")
    began, saved_at, sums, count, first = time.time(), time.time(), {}, 0, step
    while (now := (time.time() - began) / 60) < a.minutes and step - first < a.steps:
        done = now / a.minutes
        lr = a.lr * min(1, (step - first + 1) / a.warm)
        if done > a.hold:
            lr *= a.final + (1 - a.final) * 0.5 * (1 + math.cos(math.pi * (done - a.hold) / (1 - a.hold)))
        for group in opt.param_groups:
            group["lr"] = lr
        x = crops.batch(step, a.batch, a.crop, enlarged=a.enlarged).float() / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(a.seed * 1_000_003 + step)
        q = (torch.randperm(a.batch, generator=generator) + torch.rand(a.batch, generator=generator)) / a.batch * top
        c = model.code_latent(
            model.analyze(x, autocast=True),
            q,
            autocast=True,
            uniform=lambda t: torch.rand(t.shape, generator=generator),  # noqa: B023
            certain=a.certain,
        )
        bpp = (c.y_bits + c.z_bits) / a.crop**2
        half = a.batch // 2 if perceptual else a.batch
        lam, weight = SCHEDULE.lambdas(q), SCHEDULE.weights(q)
        with autocast("cpu"):
            x_s = model.g_s(c.y_hat[:half], q[:half])
            x_p = model.g_p(c.y_hat[half:], q[half:]) if perceptual else None
        distortion = ((x_s.float() - x[:half]) ** 2).mean((1, 2, 3)) * 127.5**2
        parts = {
            "bpp": bpp.mean(),
            "zbpp": c.z_bits.mean() / a.crop**2,
            "psnr": (10 * torch.log10(255**2 / distortion)).mean(),
        }
        if perceptual and x_p is not None:
            mse = ((x_p.float() - x[half:]) ** 2).mean((1, 2, 3)) * 127.5**2
            look = perceptual.draw(random.Random(a.seed * 7919 + step), (a.crop, a.crop))
            d = perceptual(x_p.float(), x[half:], look)
            repeated = periodic_artifact(x_p.float(), x[half:])
            distortion = torch.cat([distortion, a.pixel * mse + 500 * a.perceptual * (d + a.repetition * repeated)])
            parts |= {"psnr_p": (10 * torch.log10(255**2 / mse)).mean(), "d": d.mean(), "repeated": repeated}
        loss = (weight * (bpp + lam * distortion)).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            opt.step()
        step += 1
        decay = min(a.ema, (1 + step - first) / (10 + step - first)) if step < 2000 else a.ema
        with torch.no_grad():
            for k, v in model.state_dict().items():
                average[k].lerp_(v, 1 - decay)
        parts |= {"loss": loss, "norm": norm}
        for k, v in parts.items():
            sums[k] = sums.get(k, 0.0) + v.item()
        count += 1
        if step % 25 == 0:
            text = " ".join(f"{k} {v / count:.4f}" for k, v in sums.items())
            log.write(f"{step} {minutes + now:.2f} min {60 * now / (step - first):.2f} s/step lr {lr:.2e} {text}\n")
            log.flush()
            sums, count = {}, 0
        if time.time() - saved_at > 60 * a.save_minutes:
            save(path, model, average, opt, step, minutes + now, a)
            saved_at = time.time()
    save(path, model, average, opt, step, minutes + (time.time() - began) / 60, a)
    log.write("# done\n")


def save(path: Path, model: ImageEncoder2, average: dict, opt: MuonAdam, step: int, minutes: float, a) -> None:
    part = path.with_suffix(".part")
    torch.save(
        {
            "config": asdict(model.config),
            "model": model.state_dict(),
            "average": average,
            "optimizer": opt.state_dict(),
            "optimizer_kind": a.optimizer,
            "step": step,
            "minutes": minutes,
        },
        part,
    )
    os.replace(part, path)


if __name__ == "__main__":
    main()
