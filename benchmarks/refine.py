"""What `encode --refine` is worth.   python benchmarks/refine.py NAME IMAGES... [--first 4] [--qualities 0 1 3 5] [--steps 100]

Per image and quality: the plain file and one refined for each of `--targets`: the preview's squared error, a backbone, and at
the two lowest qualities structure. Each is written, read and scored: the preview by PSNR and GMSD, the image out of the
backbone, if one is a target or `--through` names one, by ST-LPIPS. A file with a larger R + lambda D than its plain one ends the
run with an error. Beside NAME.json comes NAME-structure.webp: the first image's middle, original, plain, refined and refined
for structure, one row per quality.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import resultfile
from PIL import Image

from priorcodec import open_session
from priorcodec.batch.runner import IMAGES
from priorcodec.core.errors import PriorCodecError
from priorcodec.core.image import io as image_io
from priorcodec.core.types import Encoded
from priorcodec.evaluation import bd_rate, evaluate, metrics
from priorcodec.session import Session

PLAIN, PSNR, STRUCTURE = "plain", "psnr", "gmsd"
HIGHER = {"psnr": True, "gmsd": False, "stlpips_alex": False}
SIDE = 256


def measure(session: Session, path: Path, args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """-> one row per file, and the row of crops for each quality that is refined for structure."""
    pixels, rows, shown = image_io.load(path).pixels, [], []
    low = sorted(args.qualities)[:2]
    session.codec.encode(pixels, args.qualities[0])  # warm
    for quality in args.qualities:
        started = time.process_time()
        session.codec.encode(pixels, quality)
        once = time.process_time() - started
        crops = [_middle(pixels)]
        for target in (PLAIN, *(t for t in args.targets if t != STRUCTURE or quality in low)):
            refined = None if target == PLAIN else session.refinement(args.steps, target)
            started = time.process_time()
            encoded = session.codec.encode(pixels, quality, refined=refined)
            seconds = time.process_time() - started
            row, preview = _score(session, pixels, encoded, through=bool(args.backbone) and target != STRUCTURE)
            row |= _told(encoded, path.stem, quality, target) | {"encodes": round(seconds / once, 2)}
            rows.append({"image": path.stem, "codec": target, "setting": f"{quality:g}", **row})
            crops += [] if target == args.backbone else [_middle(preview)]
        if quality in low and STRUCTURE in args.targets:
            shown.append(np.concatenate(crops, 1))
        print(path.stem, quality, file=sys.stderr, flush=True)
    return rows, shown


def _score(
    session: Session, pixels: np.ndarray, encoded: Encoded, *, through: bool
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of the preview, and with `through` of the backbone's image."""
    preview = session.preview_pixels(encoded.data)
    row = evaluate.score(pixels, preview, len(encoded.data), ("psnr", "gmsd"))
    decoded = session.decode_pixels(encoded.data) if through else None
    last = None if decoded is None else metrics.score(pixels, decoded, ["stlpips_alex"])["stlpips_alex"]
    return {**row, "stlpips_alex": None if last is None else round(last, evaluate.DIGITS)}, preview


def _told(encoded: Encoded, image: str, quality: float, target: str) -> dict[str, Any]:
    """cost: R + lambda D as a share of the plain file's, 1 or less."""
    told = encoded.refinement
    if told is None:
        return {"steps": 0, "cost": 1.0}
    before, after = told.before.total, told.after.total
    if after > before:
        raise PriorCodecError(f"{image}, quality {quality}, for {target}: R + lambda D grew from {before} to {after}")
    return {"steps": told.steps, "cost": round(after / before, 5)}


def _middle(pixels: np.ndarray) -> np.ndarray:
    top, left = (max(0, (side - SIDE) // 2) for side in pixels.shape[:2])
    return pixels[top : top + SIDE, left : left + SIDE]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each target: R + lambda D against plain (mean, worst), BD-rates against plain (percent, negative is better), cost."""
    table = bd_rate.bd_table(bd_rate.means(rows), PLAIN, HIGHER)
    out = []
    for target in dict.fromkeys(row["codec"] for row in rows if row["codec"] != PLAIN):
        mine = [row for row in rows if row["codec"] == target]
        costs = [row["cost"] for row in mine]
        found = {"target": target, "files": len(mine), "cost_mean": round(mean(costs), 5), "cost_worst": max(costs)}
        found |= {"steps": round(mean(row["steps"] for row in mine), 1)}
        found |= {"encodes_median": round(median(row["encodes"] for row in mine), 1)}
        found |= {f"bd_{e['metric']}": e["percent"] for e in table if e["codec"] == target}
        out.append(found)
    return out


def _arguments() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("name", help="results/NAME.json")
    cli.add_argument("images", nargs="+", type=Path, help="files or folders")
    cli.add_argument("--first", type=int, help="so many images only")
    cli.add_argument("--qualities", nargs="+", type=float, default=[0, 1, 3, 5])
    cli.add_argument("--steps", type=int, default=100)
    cli.add_argument("--targets", nargs="+", default=[PSNR, STRUCTURE], help="psnr, gmsd")
    cli.add_argument("--through", help="score the files through this backbone too, though none is refined for it")
    cli.add_argument("--adapter", help="the backbone's adapter, if not the default")
    cli.add_argument("--encoder", type=Path, help="another encoder's weight file")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--results", type=Path, default=resultfile.RESULTS)
    return cli.parse_args()


def run(args: argparse.Namespace) -> Path:
    import torch

    torch.set_num_threads(args.threads)
    backbones = [target for target in args.targets if target not in (PSNR, STRUCTURE)]
    if len(backbones) > 1:
        raise PriorCodecError(
            f"--targets has {len(backbones)} backbones, {' and '.join(backbones)}, wanted one at most"
        )
    args.backbone = next(iter(backbones), args.through)
    session = open_session(args.backbone or "nano_unet", adapter=args.adapter, encoder=args.encoder)
    rows: list[dict[str, Any]] = []
    shown: list[np.ndarray] = []
    images = evaluate.expand(args.images, IMAGES)[: args.first]
    for path in images:
        more, crops = measure(session, path, args)
        rows, shown = rows + more, shown or crops
    settings = {"encoder": f"{session.codec.id:08x}", "backbone": args.backbone, "steps": args.steps}
    settings |= {"qualities": args.qualities, "images": len(images), "threads": args.threads}
    content = {"settings": settings, "summary": summary(rows), "means": bd_rate.means(rows), "rows": rows}
    path = resultfile.write(args.name, "refine", content, folder=args.results)
    if shown:
        Image.fromarray(np.concatenate(shown)).save(path.with_name(f"{args.name}-structure.webp"), quality=90, method=6)
    return path


if __name__ == "__main__":
    try:
        print(run(_arguments()))
    except (PriorCodecError, OSError) as error:
        sys.exit(f"refine.py: {error}")
