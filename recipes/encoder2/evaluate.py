"""Estimated rate and PSNR of a checkpoint on some Kodak images: evaluate.py CHECKPOINT KODAK LOG.

Symbols are really rounded, in float32; bits are those of the Gaussian tables, and of the fitted ones with --tables. BD-rate in
PSNR over the range both have: against the shipped encoder (its curve on the same images, Gaussian bits, in shipped-N.json beside
LOG, N = --every), and against VVC for all 24 images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from priorcodec.core.entropy.tables import CERTAIN
from priorcodec.core.transforms import EncoderConfig
from recipes.encoder2.context import exact_bits
from recipes.encoder2.transforms import ImageEncoder2


def load(path: Path, which: str = "average") -> tuple[ImageEncoder2, dict]:
    saved = torch.load(path)
    model = ImageEncoder2(EncoderConfig())
    model.load_state_dict(saved.get(which, saved))
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last), saved  # pyright: ignore


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two images (1, 3, h, w) in [-1, 1] as 8-bit files."""
    eight = lambda x: ((x.clamp(-1, 1) + 1) * 127.5).round()  # noqa: E731
    return float(10 * torch.log10(255**2 / ((eight(a) - eight(b)) ** 2).mean()))


def curve(
    model: ImageEncoder2, images: list[Path], levels: list[float], certain: int, tables: dict[str, Tensor] | None = None
) -> list[dict[str, float]]:
    """Means over `images` per level: bpp (Gaussian), fitted (bpp of `tables`), zbpp, and PSNR of both decoders."""
    from recipes.encoder2.fit_tables import table_bits

    found = {k: v.numpy() for k, v in (tables or {}).items()}
    rows = [dict.fromkeys(("bpp", "fitted", "zbpp", "psnr", "psnr_p"), 0.0) | {"level": q} for q in levels]
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
                for kind, symbols, index in (("y", c.symbols, c.index), ("z", c.z_symbols, c.z_index)) if found else ():
                    i, symbol = torch.floor(index + 0.5).int().numpy().ravel(), symbols.round().int().numpy().ravel()
                    keep = i >= (certain if kind == "y" else 0)
                    row["fitted"] += (
                        table_bits(found[f"{kind}_cdf"], found[f"{kind}_cdf_offset"], symbol[keep], i[keep]) / pixels
                    )
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
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("checkpoint", type=Path)
    p.add_argument("kodak", type=Path)
    p.add_argument("log", type=Path)
    p.add_argument("--every", type=int, default=3)
    p.add_argument("--levels", type=float, nargs="+", default=[1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    p.add_argument("--tables", type=Path)
    p.add_argument("--certain", type=int, default=CERTAIN)
    a = p.parse_args()
    model, saved = load(a.checkpoint)
    images = sorted(a.kodak.glob("*.png"))[:: a.every]
    rows = curve(model, images, a.levels, a.certain, load_file(a.tables) if a.tables else None)
    reference = a.log.parent / f"shipped-{a.every}.json"
    rate, quality = SHIPPED_RATE, SHIPPED_PSNR
    if reference.exists():
        shipped = json.loads(reference.read_text())
        rate, quality = shipped["rate"], shipped["psnr"]
    texts = []
    for kind in ("bpp", "fitted") if a.tables else ("bpp",):
        ours = [r[kind] for r in rows], [r["psnr"] for r in rows]
        vvc = f", VVC {bd_rate(*ours, VVC_RATE, VVC_PSNR):+.1%}" if a.every == 1 else ""
        texts.append(f"{kind} against shipped {bd_rate(*ours, rate, quality):+.1%}{vvc}")
    cells = [f"{r['level']:g}: {r['bpp']:.4f} (fitted {r['fitted']:.4f}, z {r['zbpp']:.4f})" for r in rows]
    cells = [f"{cell} {r['psnr']:.2f} g_p {r['psnr_p']:.2f}" for cell, r in zip(cells, rows, strict=True)]
    state = f"{saved.get('minutes', 0):.1f} min, step {saved.get('step', 0)}, {len(images)} images"
    line = f"{state}: {' | '.join(cells)}; {'; '.join(texts)}\n"
    print(line, end="")
    with a.log.open("a") as out:
        out.write("- " + line)


if __name__ == "__main__":
    main()
