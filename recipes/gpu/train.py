"""Encoder 2 on one GPU for a few minutes: the objective of recipes/encoder2/train.py, everything resident on the device.

    python3 -m recipes.gpu.train PACK OUT --max-minutes 8        (on a CPU, to rehearse: --device cpu --max-minutes 0.5)
PACK is what recipes/gpu/pack.py wrote; OUT receives the averaged weights in fp16, four files under 16 MiB, and log.txt.
The clock starts with the process: decoding, compiling and saving are inside --max-minutes.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.encoder2.entropy_model import CERTAIN
from recipes.encoder2.muon import MuonAdam
from recipes.encoder2.objective import lambdas, weights
from recipes.encoder2.perceptual import Features, Perceptual
from recipes.encoder2.transforms import Encoder2Config, ImageEncoder2

BEGAN = time.time()
PARTS = {"transforms": ("g_a.", "h_a.", "log_"), "entropy": ("entropy.",), "g_s": ("g_s.",), "g_p": ("g_p.",)}
FULL_PRECISION = ("log_", "entropy.")


class Images:
    """All images on the device as uint8, crops cut there; large images are drawn more often."""

    def __init__(self, tar: Path, device: torch.device, *, limit: int | None = None):
        with tarfile.open(tar) as files:
            data = [files.extractfile(m).read() for m in files.getmembers()[:limit] if m.isfile()]  # pyright: ignore
        with ThreadPoolExecutor(16) as pool:
            arrays = list(pool.map(lambda b: np.array(Image.open(io.BytesIO(b)).convert("RGB")), data))
        self.images = [torch.from_numpy(a).to(device).permute(2, 0, 1) for a in arrays]
        self.area = torch.tensor([float(a.shape[0] * a.shape[1]) for a in arrays])
        self.short = torch.tensor([min(a.shape[:2]) for a in arrays])

    def batch(self, count: int, size: int, generator: torch.Generator, rng: random.Random, enlarged: float) -> Tensor:
        """-> (count, 3, size, size) in [-1, 1]."""
        chance = (self.area / size**2).clamp(max=8.0) * (self.short >= size)
        out = []
        for i in torch.multinomial(chance, count, replacement=True, generator=generator).tolist():
            image = self.images[i]
            part = round(size / rng.uniform(1.25, 2.2)) if rng.random() < enlarged else size
            top, left = rng.randint(0, image.shape[1] - part), rng.randint(0, image.shape[2] - part)
            crop = image[:, top : top + part, left : left + part]
            if part != size:
                crop = F.interpolate(crop[None].float(), (size, size), mode="bicubic", align_corners=False)[0].clamp(
                    0, 255
                )
            out.append((crop.flip(-1) if rng.random() < 0.5 else crop).float())
        return torch.stack(out).div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


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
        with torch.autocast(device, dtype=torch.bfloat16):
            x_s, x_p = self.model.g_s(c.y_hat[:half], q[:half]), self.model.g_p(c.y_hat[half:], q[half:])
        return x_s.float(), x_p.float(), (c.y_bits + c.z_bits) / (x.shape[-1] * x.shape[-2])


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("pack", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--max-minutes", type=float, default=8.0, help="hard stop, from the start of the process to its end")
    p.add_argument("--device", default="cuda")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--crop", type=int, default=256)
    p.add_argument("--lr", type=float, default=4e-4)
    p.add_argument("--optimizer", choices=("muon", "adam"), default="muon")
    p.add_argument("--perceptual", type=float, default=0.7)
    p.add_argument("--pixel", type=float, default=0.3)
    p.add_argument("--hold", type=float, default=0.4, help="share of the time at the full learning rate")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--enlarged", type=float, default=0.2)
    p.add_argument("--certain", type=int, default=CERTAIN)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--limit", type=int, help="use only so many images (to rehearse)")
    return p.parse_args()


def minutes() -> float:
    return (time.time() - BEGAN) / 60


def main() -> None:
    a = arguments()
    device = torch.device(a.device)
    a.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("highest")  # Muon squares matrices: TF32 would break it
    torch.manual_seed(a.seed)
    model = ImageEncoder2(Encoder2Config())
    state = {k: v.float() for k, v in load_file(a.pack / "start.safetensors").items()}
    if not any(k.startswith("g_p.") for k in state):
        state |= {k.replace("g_s.", "g_p.", 1): v for k, v in state.items() if k.startswith("g_s.")}
    model.load_state_dict(state)
    model.to(device, memory_format=torch.channels_last)  # pyright: ignore
    average = {k: v.clone() for k, v in model.state_dict().items()}
    perceptual = Perceptual(Features.from_file(a.pack / "features.safetensors"), side=192).to(device)
    images = Images(a.pack / "images.tar", device, limit=a.limit)
    log = (a.out / "log.txt").open("w")

    def say(text: str) -> None:
        print(text, flush=True)
        log.write(text + "\n")
        log.flush()

    say(
        f"# {a}\n# {minutes():.2f} min: {len(images.images)} images, {images.area.sum() / 1e6:.0f} M pixels on {device}"
    )
    forward = Step(model, a.certain)
    step_fn = forward if a.no_compile or device.type == "cpu" else torch.compile(forward)
    opt = MuonAdam(model.named_parameters(), a.lr, muon=a.optimizer == "muon")
    top, m, m_h = model.config.levels - 1, model.config.m, model.config.m_h
    generator, on_device = torch.Generator().manual_seed(a.seed), torch.Generator(device).manual_seed(a.seed)
    rng = random.Random(a.seed)
    sums: dict[str, Tensor] = {}
    step = count = 0
    reserve = 0.25 if device.type == "cuda" else 0.1  # minutes kept for saving
    started = None
    while minutes() < a.max_minutes - reserve:
        if started is None and step == 3:
            started = minutes()
            say(f"# {started:.2f} min: compiled")
        done = 0.0 if started is None else (minutes() - started) / max(a.max_minutes - reserve - started, 1e-3)
        lr = a.lr * min(1, (step + 1) / 200)
        if done > a.hold:
            lr *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, (done - a.hold) / (1 - a.hold))))
        for group in opt.param_groups:
            group["lr"] = lr
        b = a.batch
        x = images.batch(b, a.crop, generator, rng, a.enlarged)
        q = ((torch.randperm(b, generator=generator) + torch.rand(b, generator=generator)) / b * top).to(device)
        side = a.crop // 16
        noise_z = torch.rand(b, m_h, side // 4, side // 4, device=device, generator=on_device)
        noise_y = torch.rand(b, m, side, side, device=device, generator=on_device)
        half = b // 2
        x_s, x_p, bpp = step_fn(x, q, noise_z, noise_y)
        mse = torch.cat([((x_s - x[:half]) ** 2).mean((1, 2, 3)), ((x_p - x[half:]) ** 2).mean((1, 2, 3))]) * 127.5**2
        d = perceptual(x_p, x[half:], rng, autocast=True)
        distortion = torch.cat([mse[:half], a.pixel * mse[half:] + 500 * a.perceptual * d])
        loss = (weights(q, top) * (bpp + lambdas(q) * distortion)).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in opt.param_groups:  # a step that is not finite changes nothing, without waiting for the device
            for p in group["params"]:
                if p.grad is not None:
                    torch.nan_to_num_(p.grad, 0.0, 0.0, 0.0)
        opt.step()
        step += 1
        with torch.no_grad():
            keys = list(average)
            now = model.state_dict()
            torch._foreach_lerp_(  # pyright: ignore
                [average[k] for k in keys], [now[k] for k in keys], 1 - min(a.ema, (1 + step) / (10 + step))
            )
        parts = {"loss": loss, "bpp": bpp.mean(), "mse": mse[:half].mean(), "mse_p": mse[half:].mean(), "d": d.mean()}
        for k, v in parts.items():
            sums[k] = sums.get(k, torch.zeros((), device=device)) + v.detach()
        count += 1
        if step % (200 if device.type == "cuda" else 2) == 0:
            text = " ".join(f"{k} {v.item() / count:.4f}" for k, v in sums.items())
            say(f"{step} {minutes():.2f} min lr {lr:.2e} {text}")
            sums, count = {}, 0
    for name, prefixes in PARTS.items():
        tensors = {k: v for k, v in average.items() if k.startswith(prefixes)}
        dtype = lambda k: torch.float32 if k.startswith(FULL_PRECISION) else torch.float16  # noqa: E731
        out = {k: v.detach().cpu().contiguous().to(dtype(k)) for k, v in tensors.items()}
        note = {"steps": str(step), "settings": json.dumps({k: str(v) for k, v in vars(a).items()})}
        save_file(out, a.out / f"{name}.safetensors", note)
        say(f"# {name}.safetensors {(a.out / f'{name}.safetensors').stat().st_size / 2**20:.1f} MiB")
    say(f"# done after {minutes():.2f} min, {step} steps")


if __name__ == "__main__":
    main()
