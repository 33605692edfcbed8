"""Encoder 2 on one GPU for a few minutes: everything resident on the device.

    python3 -m recipes.gpu.encoder PACK OUT --max-minutes 8        (on a CPU, to rehearse: --device cpu --max-minutes 0.5)
PACK is what recipes/gpu/pack.py wrote; OUT receives the averaged weights in fp16, four files under 16 MiB, and log.txt.
The clock starts with the process: decoding, recording and saving are inside --max-minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from priorcodec.core.entropy.tables import CERTAIN
from priorcodec.core.precision import autocast
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.transforms import EncoderConfig
from priorcodec.training.losses import periodic_artifact
from priorcodec.training.perceptual import View
from recipes.encoder2.muon import MuonAdam
from recipes.encoder2.transforms import ImageEncoder2
from recipes.gpu.common import (
    Average,
    Ensemble,
    Images,
    Log,
    Recorded,
    differentiate,
    load_features,
    load_vgg,
    minutes,
    schedule,
)

PARTS = {"transforms": ("g_a.", "h_a.", "log_"), "entropy": ("entropy.",), "g_s": ("g_s.",), "g_p": ("g_p.",)}
FULL_PRECISION = ("log_", "entropy.")
SNAPSHOT_SECONDS = 20
SCHEDULE = LambdaSchedule()


class Step:
    """Losses and gradients of one step, for `Recorded`: half of the batch through each decoder."""

    def __init__(self, model: ImageEncoder2, ensemble: Ensemble, a: argparse.Namespace):
        self.model, self.ensemble, self.a = model, ensemble, a
        self.parameters = list(model.parameters())

    def __call__(self, *, x: Tensor, q: Tensor, noise_z: Tensor, noise_y: Tensor, **view: Tensor) -> dict[str, Tensor]:
        """x (b, 3, h, w), q (b,), uniform noise of both latents, tensors of a `View` -> means over the batch."""
        a, model, half = self.a, self.model, len(x) // 2
        noises = [noise_z, noise_y]
        c = model.code_latent(
            model.analyze(x, autocast=True), q, autocast=True, uniform=lambda _: noises.pop(0), certain=a.certain
        )
        with autocast(x.device):
            x_s, x_p = model.g_s(c.y_hat[:half], q[:half]).float(), model.g_p(c.y_hat[half:], q[half:]).float()
        bpp = (c.y_bits + c.z_bits) / (x.shape[-1] * x.shape[-2])
        mse = torch.cat([((x_s - x[:half]) ** 2).mean((1, 2, 3)), ((x_p - x[half:]) ** 2).mean((1, 2, 3))]) * 127.5**2
        d, _, _ = self.ensemble(x_p, x[half:], View(side=self.ensemble.side, **view))
        repeated = periodic_artifact(x_p, x[half:])
        looks = a.pixel * mse[half:] + 500 * a.perceptual * (d + a.repetition * repeated)
        loss = (SCHEDULE.weights(q) * (bpp + SCHEDULE.lambdas(q) * torch.cat([mse[:half], looks]))).mean()
        differentiate(loss, self.parameters)
        means = {"loss": loss, "bpp": bpp.mean(), "mse": mse[:half].mean(), "mse_p": mse[half:].mean(), "d": d.mean()}
        return {name: value.detach() for name, value in {**means, "repeated": repeated}.items()}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("pack", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--max-minutes", type=float, default=8.0, help="hard stop, from the start of the process to its end")
    p.add_argument("--device", default="cuda")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--crop", type=int, default=256)
    p.add_argument("--lr", type=float, default=2e-4)
    p.add_argument("--optimizer", choices=("muon", "adam"), default="adam")
    p.add_argument("--perceptual", type=float, default=0.7)
    p.add_argument("--pixel", type=float, default=0.3)
    p.add_argument("--hold", type=float, default=0.4, help="share of the time at the full learning rate")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--enlarged", type=float, default=0.15)
    p.add_argument("--certain", type=int, default=CERTAIN)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--eager", action="store_true", help="no CUDA graphs")
    p.add_argument("--repetition", type=float, default=7.0, help="in units of the perceptual distance")
    p.add_argument("--limit", type=int, help="use only so many images of each file (to rehearse)")
    return p.parse_args()


def initial(pack: Path) -> dict[str, Tensor]:
    """Weights to start from; a perceptual decoder that did not travel starts as the preview's."""
    state = {k: v.float() for k, v in load_file(pack / "start.safetensors").items()}
    if not any(k.startswith("g_p.") for k in state):
        state |= {k.replace("g_s.", "g_p.", 1): v for k, v in state.items() if k.startswith("g_s.")}
    return state


def main() -> None:
    a = arguments()
    device = torch.device(a.device)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # what is not bfloat16 stands for integers; Muon squares matrices
    torch.manual_seed(a.seed)
    model = ImageEncoder2(EncoderConfig())
    model.load_state_dict(initial(a.pack))
    model.to(device, memory_format=torch.channels_last)  # pyright: ignore
    average = Average(model.state_dict(), a.ema)
    ensemble = Ensemble(
        load_features(a.pack / "features.safetensors"), load_vgg(a.pack / "vgg.safetensors"), side=192
    ).to(device)
    images = Images(sorted(a.pack.glob("images*.tar")), device, limit=a.limit)
    log = Log(a.out / "encoder.txt")
    log.say(f"# {a}")
    log.say(f"# {minutes():.2f} min: {len(images.images)} images, {images.area.sum() / 1e6:.0f} M pixels on {device}")
    step_fn = Recorded(Step(model, ensemble, a), log, enabled=not a.eager)
    opt = MuonAdam(model.named_parameters(), a.lr, muon=a.optimizer == "muon")
    top, m, m_h = model.config.levels - 1, model.config.m, model.config.m_h
    generator, on_device = torch.Generator().manual_seed(a.seed), torch.Generator(device).manual_seed(a.seed)
    rng = random.Random(a.seed)
    step, started, snapshot = 0, None, time.time()
    reserve = 0.1  # minutes kept for saving
    while minutes() < a.max_minutes - reserve:
        if started is None and step == 3:
            started = minutes()
            log.say(f"# {started:.2f} min: the learning rate's schedule begins")
        done = 0.0 if started is None else (minutes() - started) / max(a.max_minutes - reserve - started, 1e-3)
        lr = a.lr * min(1, (step + 1) / 200) * schedule(done, a.hold)
        for group in opt.param_groups:
            group["lr"] = lr
        b, side = a.batch, a.crop // 16
        x = images.batch(b, a.crop, generator, rng, a.enlarged)
        q = ((torch.randperm(b, generator=generator) + torch.rand(b, generator=generator)) / b * top).to(device)
        noise_z = torch.rand(b, m_h, side // 4, side // 4, device=device, generator=on_device)
        noise_y = torch.rand(b, m, side, side, device=device, generator=on_device)
        means = step_fn(x=x, q=q, noise_z=noise_z, noise_y=noise_y, **ensemble.view(x, rng).tensors())
        opt.step()
        step += 1
        average.update(model.state_dict())
        log.add(**means)
        if step % (100 if device.type == "cuda" else 2) == 0:
            log.flush(f"{step} {minutes():.2f} min lr {lr:.2e}")
        if time.time() - snapshot > SNAPSHOT_SECONDS:
            save_snapshot(average.tensors, a.out, final=False)
            snapshot = time.time()
    save_snapshot(average.tensors, a.out, final=True)
    for name, prefixes in PARTS.items():
        tensors = {k: v for k, v in average.tensors.items() if k.startswith(prefixes)}
        dtype = lambda k: torch.float32 if k.startswith(FULL_PRECISION) else torch.float16  # noqa: E731
        out = {k: v.detach().cpu().contiguous().to(dtype(k)) for k, v in tensors.items()}
        note = {"steps": str(step), "settings": json.dumps({k: str(v) for k, v in vars(a).items()})}
        save_file(out, a.out / f"{name}.safetensors", note)
        log.say(f"# {name}.safetensors {(a.out / f'{name}.safetensors').stat().st_size / 2**20:.1f} MiB")
    log.say(f"# done after {minutes():.2f} min, {step} steps")


def save_snapshot(average: dict[str, Tensor], folder: Path, *, final: bool) -> None:
    """The averaged weights for whoever trains a decoder beside this run; rounded at the end as they will be shipped."""
    part = folder / "snapshot.part"
    rounded = {k: v if k.startswith(FULL_PRECISION) or not final else v.half().float() for k, v in average.items()}
    torch.save({"average": rounded, "final": final}, part)
    os.replace(part, folder / "snapshot.pt")


if __name__ == "__main__":
    main()
