"""Estimated rate and PSNR of a checkpoint on some Kodak images: evaluate.py CHECKPOINT KODAK LOG.

Symbols are really rounded, in float32; bits are those of the Gaussian tables, and of the fitted ones with --tables. With
--every 1 (all 24 images) also the BD-rate in PSNR against VVC.
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
from priorcodec.evaluation import bd_rate
from recipes.encoder2.context import exact_bits
from recipes.encoder2.transforms import ImageEncoder2

KODAK = Path(__file__).parents[2] / "benchmarks" / "results" / "kodak.json"


def load(path: Path) -> tuple[ImageEncoder2, dict]:
    saved = torch.load(path)
    model = ImageEncoder2(EncoderConfig())
    model.load_state_dict(saved.get("average", saved))
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


def against_vvc(rows: list[dict[str, float]], kind: str) -> str:
    """BD-rate in PSNR of the rates `kind` against VVC; benchmarks/results/kodak.json holds its curve on all 24 images."""
    vvc = bd_rate.curve(json.loads(KODAK.read_text())["means"], "vvc", "psnr")
    found = bd_rate.bd_rate(vvc, [(r[kind], r["psnr"]) for r in rows], higher_is_better=True)
    return f"; {kind} against VVC {found.percent:+.1f}%"


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
    texts = [against_vvc(rows, kind) for kind in (("bpp", "fitted") if a.tables else ("bpp",))] if a.every == 1 else []
    cells = [f"{r['level']:g}: {r['bpp']:.4f} (fitted {r['fitted']:.4f}, z {r['zbpp']:.4f})" for r in rows]
    cells = [f"{cell} {r['psnr']:.2f} g_p {r['psnr_p']:.2f}" for cell, r in zip(cells, rows, strict=True)]
    state = f"{saved.get('minutes', 0):.1f} min, step {saved.get('step', 0)}, {len(images)} images"
    line = f"{state}: {' | '.join(cells)}{''.join(texts)}\n"
    print(line, end="")
    with a.log.open("a") as out:
        out.write("- " + line)


if __name__ == "__main__":
    main()
