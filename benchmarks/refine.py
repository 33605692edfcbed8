"""What `encode --refine` saves.   python benchmarks/refine.py NAME IMAGES... [--first 4] [--qualities 0 1 3 5] [--steps 100]

Per image and quality: the plain file, one refined for the preview's squared error, and at the two lowest qualities one refined
for GMSD. Each is written, read and scored: the preview by PSNR and GMSD, and with `--through BACKBONE` the image out of that
backbone by the headline metric. A file with a larger R + lambda D than its plain one ends the run with an error. Beside
NAME.json comes NAME-gmsd.webp: the first image's middle, original, plain, and refined for both, one row per quality.
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
from priorcodec.evaluation import bd_rate, evaluate, metrics
from priorcodec.session import EncodedImage, Session

PLAIN, PSNR, GMSD = "plain", "psnr", "gmsd"
LITE1 = "lite1_lpips"
HIGHER = {name: metrics.METRICS[name].higher_is_better for name in (PSNR, GMSD, LITE1)}
SIDE = 256


def measure(session: Session, path: Path, args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """-> one row per file, and the row of crops for each quality that is refined for GMSD."""
    pixels, rows, shown = image_io.load(path).pixels, [], []
    low = sorted(args.qualities)[:2]
    session.encode(pixels, args.qualities[0])  # warm
    for quality in args.qualities:
        started = time.process_time()
        session.encode(pixels, quality)
        once = time.process_time() - started
        crops = [_middle(pixels)]
        for target in (PLAIN, PSNR, *((GMSD,) if quality in low else ())):
            refined: dict[str, Any] = {} if target == PLAIN else {"refine": args.steps, "refine_metric": target}
            started = time.process_time()
            encoded = session.encode(pixels, quality, **refined)
            seconds = time.process_time() - started
            row, preview = _score(session, pixels, encoded, through=args.through is not None)
            row |= _gain(encoded, path.stem, quality, target) | {"encodes": round(seconds / once, 2)}
            rows.append({"image": path.stem, "codec": target, "setting": f"{quality:g}", **row})
            crops.append(_middle(preview))
        if quality in low:
            shown.append(np.concatenate(crops, 1))
        print(path.stem, quality, file=sys.stderr, flush=True)
    return rows, shown


def _score(
    session: Session, pixels: np.ndarray, encoded: EncodedImage, *, through: bool
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of the preview, and with `through` of the backbone's image."""
    preview = session.preview(encoded, output="np")
    row = evaluate.score(pixels, preview, len(encoded), (PSNR, GMSD))
    last = metrics.score(pixels, session.decode(encoded, output="np"), [LITE1]) if through else {}
    value = last.get(LITE1)
    return {**row, LITE1: None if value is None else round(value, evaluate.DIGITS)}, preview


def _gain(encoded: EncodedImage, image: str, quality: float, target: str) -> dict[str, Any]:
    """cost: R + lambda D as a share of the plain file's, 1 or less."""
    done = encoded.details.refinement
    if done is None:
        return {"steps": 0, "cost": 1.0}
    before, after = done.before.total, done.after.total
    if after > before:
        raise PriorCodecError(f"{image}, quality {quality}, for {target}: R + lambda D grew from {before} to {after}")
    return {"steps": done.steps, "cost": round(after / before, 5)}


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
    cli.add_argument("--through", metavar="BACKBONE", help="score the files through this backbone as well")
    cli.add_argument("--adapter", default="default", help="the backbone's adapter")
    cli.add_argument("--encoder", type=Path, help="another encoder's weight file")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--results", type=Path, default=resultfile.RESULTS)
    return cli.parse_args()


def run(args: argparse.Namespace) -> Path:
    import torch

    torch.set_num_threads(args.threads)
    session = open_session(args.through or "nano_pixel", adapter=args.adapter, encoder=args.encoder)
    rows: list[dict[str, Any]] = []
    shown: list[np.ndarray] = []
    images = evaluate.expand(args.images, IMAGES)[: args.first]
    for path in images:
        more, crops = measure(session, path, args)
        rows, shown = rows + more, shown or crops
    settings = {"encoder": f"{session.codec.id:08x}", "backbone": args.through, "steps": args.steps}
    settings |= {"qualities": args.qualities, "images": len(images), "threads": args.threads}
    content = {"settings": settings, "summary": summary(rows), "means": bd_rate.means(rows), "rows": rows}
    path = resultfile.write(args.name, "refine", content, folder=args.results)
    if shown:
        Image.fromarray(np.concatenate(shown)).save(path.with_name(f"{args.name}-gmsd.webp"), quality=90, method=6)
    return path


if __name__ == "__main__":
    try:
        print(run(_arguments()))
    except (PriorCodecError, OSError) as error:
        sys.exit(f"refine.py: {error}")
