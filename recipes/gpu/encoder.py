"""Encoder 2 on one GPU for a few minutes: everything resident on the device.

    python3 -m recipes.gpu.encoder PACK OUT --max-minutes 8        (on a CPU, to rehearse: --device cpu --max-minutes 0.5)
PACK is what recipes/gpu/pack.py wrote; OUT receives the averaged weights in fp16, four files under 16 MiB, and log.txt.
The clock starts with the process: decoding, compiling and saving are inside --max-minutes.
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
from torch import Tensor, nn

from priorcodec.core.entropy.tables import CERTAIN
from priorcodec.core.precision import autocast
from priorcodec.core.transforms import EncoderConfig
from recipes.encoder2.muon import MuonAdam
from recipes.encoder2.objective import lambdas, weights
from recipes.encoder2.perceptual import Features
from recipes.encoder2.transforms import ImageEncoder2
from recipes.gpu.common import Average, Ensemble, Images, Log, Vgg, minutes, optimize, repetition, schedule

PARTS = {"transforms": ("g_a.", "h_a.", "log_"), "entropy": ("entropy.",), "g_s": ("g_s.",), "g_p": ("g_p.",)}
FULL_PRECISION = ("log_", "entropy.")
SNAPSHOT_SECONDS = 20


class Step(nn.Module):
    """What is compiled: crops, qualities and noise -> both decodings, rates."""

    def __init__(self, model: ImageEncoder2, certain: int):
        super().__init__()
        self.model, self.certain = model, certain

    def forward(self, x: Tensor, q: Tensor, noise_z: Tensor, noise_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        device, half = x.device.type, len(x) // 2
        noises = [noise_z, noise_y]
        c = self.model.code_latent(
            self.model.analyze(x, autocast=True),
            q,
            autocast=True,
            uniform=lambda _: noises.pop(0),
            certain=self.certain,
        )
        with autocast(device):
            x_s, x_p = self.model.g_s(c.y_hat[:half], q[:half]), self.model.g_p(c.y_hat[half:], q[half:])
        return x_s.float(), x_p.float(), (c.y_bits + c.z_bits) / (x.shape[-1] * x.shape[-2])


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
    p.add_argument("--compile", action="store_true", help="takes more than a minute beside other runs")
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
        Features.from_file(a.pack / "features.safetensors"), Vgg.from_file(a.pack / "vgg.safetensors"), side=192
    ).to(device)
    images = Images(sorted(a.pack.glob("images*.tar")), device, limit=a.limit)
    log = Log(a.out / "encoder.txt")
    log.say(f"# {a}")
    log.say(f"# {minutes():.2f} min: {len(images.images)} images, {images.area.sum() / 1e6:.0f} M pixels on {device}")
    forward = Step(model, a.certain)
    step_fn = torch.compile(forward) if a.compile else forward
    opt = MuonAdam(model.named_parameters(), a.lr, muon=a.optimizer == "muon")
    top, m, m_h = model.config.levels - 1, model.config.m, model.config.m_h
    generator, on_device = torch.Generator().manual_seed(a.seed), torch.Generator(device).manual_seed(a.seed)
    rng = random.Random(a.seed)
    step, started, snapshot = 0, None, time.time()
    reserve = 0.1  # minutes kept for saving
    while minutes() < a.max_minutes - reserve:
        if started is None and step == 3:
            started = minutes()
            log.say(f"# {started:.2f} min: compiled")
        done = 0.0 if started is None else (minutes() - started) / max(a.max_minutes - reserve - started, 1e-3)
        lr = a.lr * min(1, (step + 1) / 200) * schedule(done, a.hold)
        for group in opt.param_groups:
            group["lr"] = lr
        b, half = a.batch, a.batch // 2
        x = images.batch(b, a.crop, generator, rng, a.enlarged)
        q = ((torch.randperm(b, generator=generator) + torch.rand(b, generator=generator)) / b * top).to(device)
        side = a.crop // 16
        noise_z = torch.rand(b, m_h, side // 4, side // 4, device=device, generator=on_device)
        noise_y = torch.rand(b, m, side, side, device=device, generator=on_device)
        try:
            x_s, x_p, bpp = step_fn(x, q, noise_z, noise_y)
        except Exception as error:
            if step_fn is forward:
                raise
            log.say(f"# not compiled: {str(error)[:300]}")
            step_fn = forward
            continue
        mse = torch.cat([((x_s - x[:half]) ** 2).mean((1, 2, 3)), ((x_p - x[half:]) ** 2).mean((1, 2, 3))]) * 127.5**2
        d, _, _ = ensemble(x_p, x[half:], rng)
        repeated = repetition(x_p, x[half:])
        looks = a.pixel * mse[half:] + 500 * a.perceptual * (d + a.repetition * repeated)
        distortion = torch.cat([mse[:half], looks])
        loss = (weights(q, top) * (bpp + lambdas(q) * distortion)).mean()
        optimize(opt, loss, list(model.parameters()))
        step += 1
        average.update(model.state_dict())
        log.add(
            loss=loss, bpp=bpp.mean(), mse=mse[:half].mean(), mse_p=mse[half:].mean(), d=d.mean(), repeated=repeated
        )
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
