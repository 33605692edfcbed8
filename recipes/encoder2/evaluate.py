"""Estimated rate and PSNR of a checkpoint on some Kodak images: evaluate.py CHECKPOINT KODAK LOG [every-nth-image] [levels...].

Bits are those of the Gaussian tables, symbols are really rounded, in float32. BD-rate in PSNR over the range both have: against
the shipped encoder (its curve on the same images in shipped-N.json beside LOG, N = every N-th image), and against VVC for all 24.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from priorcodec.core.transforms2 import Encoder2Config, ImageEncoder2
from recipes.encoder2.context import exact_bits


def load(path: Path, which: str = "average") -> tuple[ImageEncoder2, dict]:
    saved = torch.load(path)
    model = ImageEncoder2(Encoder2Config())
    model.load_state_dict(saved.get(which, saved))
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last), saved  # pyright: ignore


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two images (1, 3, h, w) in [-1, 1] as 8-bit files."""
    eight = lambda x: ((x.clamp(-1, 1) + 1) * 127.5).round()  # noqa: E731
    return float(10 * torch.log10(255**2 / ((eight(a) - eight(b)) ** 2).mean()))


def curve(model: ImageEncoder2, images: list[Path], levels: list[float], certain: int) -> list[dict[str, float]]:
    rows = [dict.fromkeys(("bpp", "zbpp", "psnr", "psnr_p"), 0.0) | {"level": q} for q in levels]
    with torch.inference_mode():
        for path in images:
            x = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1
            x = x.contiguous(memory_format=torch.channels_last)
            y = model.analyze(x)
            for row in rows:
                q = torch.tensor([row["level"]])
                c = model.code_latent(y, q, bits=exact_bits, certain=certain)
                pixels = x.shape[-1] * x.shape[-2] * len(images)
                row["bpp"] += float(c.y_bits + c.z_bits) / pixels
                row["zbpp"] += float(c.z_bits) / pixels
                row["psnr"] += psnr(model.g_s(c.y_hat, q), x) / len(images)
                row["psnr_p"] += psnr(model.g_p(c.y_hat, q), x) / len(images)
    return rows


def bd_rate(rate: list[float], quality: list[float], anchor_rate: list[float], anchor_quality: list[float]) -> float:
    """Mean difference of log rate at equal quality over the common range, piecewise cubic; a share, not percent."""
    from scipy.interpolate import PchipInterpolator

    low, high = max(min(quality), min(anchor_quality)), min(max(quality), max(anchor_quality))
    order, ours = np.argsort(quality), np.argsort(anchor_quality)
    ours_fit = PchipInterpolator(np.array(quality)[order], np.log(np.array(rate)[order]))
    anchor_fit = PchipInterpolator(np.array(anchor_quality)[ours], np.log(np.array(anchor_rate)[ours]))
    return float(np.exp((ours_fit.integrate(low, high) - anchor_fit.integrate(low, high)) / (high - low)) - 1)


VVC_RATE = [0.3606, 0.1777, 0.0816, 0.0366, 0.0182, 0.0108]
VVC_PSNR = [32.26, 29.61, 27.21, 24.97, 22.98, 21.19]
SHIPPED_RATE = [0.0278, 0.0456, 0.0724, 0.1104, 0.1607, 0.2964]
SHIPPED_PSNR = [23.64, 24.81, 25.90, 26.92, 27.81, 29.10]


def main() -> None:
    torch.set_num_threads(1)
    checkpoint, kodak, log = map(Path, sys.argv[1:4])
    every = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    model, saved = load(checkpoint)
    levels = [float(s) for s in sys.argv[5:]] or [0.0, 3.0, 5.0, 7.0, 9.0, 11.0]
    images = sorted(kodak.glob("*.png"))[::every]
    rows = curve(model, images, levels, 4)
    reference = log.parent / f"shipped-{every}.json"
    if reference.exists():
        shipped = json.loads(reference.read_text())
        rate, quality = shipped["rate"], shipped["psnr"]
    else:
        rate, quality = SHIPPED_RATE, SHIPPED_PSNR
    ours = [r["bpp"] for r in rows], [r["psnr"] for r in rows]
    gain = bd_rate(*ours, rate, quality)
    vvc = bd_rate(*ours, VVC_RATE, VVC_PSNR) if every == 1 else float("nan")
    text = " | ".join(
        f"{r['level']:g}: {r['bpp']:.4f} (z {r['zbpp']:.4f}) {r['psnr']:.2f} p {r['psnr_p']:.2f}" for r in rows
    )
    state = f"{saved.get('minutes', 0):.1f} min, step {saved.get('step', 0)}, {len(images)} images"
    line = f"{state}: {text}; against shipped {gain:+.1%}, VVC {vvc:+.1%}\n"
    print(line, end="")
    with log.open("a") as out:
        out.write("- " + line)


if __name__ == "__main__":
    main()
