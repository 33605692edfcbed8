"""How well and how fast a rate target is met.   python benchmarks/rate.py NAME IMAGES... [--targets 0.03 0.06 0.12 0.24]

Per image and target: `Codec.encode_to` in bytes of the whole file, against the target and against the time of one plain
encode at the quality it found. A target beyond an image's smallest or largest file is counted apart, with that file's size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

import resultfile

from priorcodec.batch.runner import IMAGES
from priorcodec.core import rate_control
from priorcodec.core.codec import Codec
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.errors import ConfigError, PriorCodecError
from priorcodec.core.image import io as image_io
from priorcodec.evaluation import evaluate

Result = TypeVar("Result")


def measure(codec: Codec, path: Path, targets: list[float], repeats: int) -> list[dict[str, Any]]:
    """One row per target. outcome: hit, missed (fits, but more than 3% below), below or above what the image can have."""
    pixels = image_io.load(path).pixels
    codec.encode(pixels)  # warm
    smallest, largest = (len(codec.encode(pixels, quality).data) for quality in (0, codec.levels - 1))
    rows = []
    for bpp in targets:
        wanted = rate_control.target_bytes(None, bpp, *pixels.shape[:2])
        row = {"image": path.stem, "target_bpp": bpp, "target_bytes": wanted}
        row |= {"smallest": smallest, "largest": largest}
        try:
            found, seconds = _timed(lambda wanted=wanted: codec.encode_to(pixels, wanted), repeats)
        except ConfigError:
            rows.append({**row, "outcome": "below"})
            continue
        size, quality = len(found.encoded.data), found.encoded.container.quality / QUALITY_STEPS
        _, once = _timed(lambda quality=quality: codec.encode(pixels, quality), repeats)
        above = found.highest and not found.hit
        row |= {"outcome": "above" if above else "hit" if found.hit else "missed", "bytes": size}
        row |= {"under": round(1 - size / wanted, 5), "quality": quality, "files_written": found.written}
        row |= {"search_seconds": round(seconds, 4), "encode_seconds": round(once, 4)}
        rows.append({**row, "encodes": round(seconds / once, 3)})
    return rows


def summary(rows: list[dict[str, Any]], bpp: float) -> dict[str, Any]:
    """Of one target: how many images hit it; the worst and mean share by which reachable ones are under; cost of the search."""
    mine = [row for row in rows if row["target_bpp"] == bpp]
    counts = {what: sum(row["outcome"] == what for row in mine) for what in ("hit", "missed", "below", "above")}
    reached = [row for row in mine if row["outcome"] in ("hit", "missed")]
    out = {"target_bpp": bpp, "images": len(mine), **counts}
    if reached:
        under, encodes = [row["under"] for row in reached], [row["encodes"] for row in reached]
        out |= {"worst_under": max(under), "mean_under": round(mean(under), 5)}
        out |= {"files_written": round(mean(row["files_written"] for row in reached), 2)}
        out |= {"encodes_median": round(median(encodes), 2), "encodes_worst": round(max(encodes), 2)}
    return out


def _timed(work: Callable[[], Result], repeats: int) -> tuple[Result, float]:
    """-> what it gave, processor seconds of the quickest run: other programs on the machine count less than on a clock."""
    runs = []
    for _ in range(max(1, repeats)):
        started = time.process_time()
        result = work()
        runs.append((time.process_time() - started, result))
    return runs[0][1], min(seconds for seconds, _ in runs)


def _arguments() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("name", help="results/NAME.json")
    cli.add_argument("images", nargs="+", type=Path)
    cli.add_argument("--targets", nargs="+", type=float, default=[0.03, 0.06, 0.12, 0.24], help="bits per pixel")
    cli.add_argument("--encoder", type=Path, help="another encoder's weight file")
    cli.add_argument("--repeats", type=int, default=1, help="of everything timed; the quickest counts")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--results", type=Path, default=resultfile.RESULTS)
    return cli.parse_args()


def run(args: argparse.Namespace) -> Path:
    import torch

    torch.set_num_threads(args.threads)
    codec, rows = Codec(args.encoder), []
    for path in evaluate.expand(args.images, IMAGES):
        rows += measure(codec, path, args.targets, args.repeats)
        print(path.stem, file=sys.stderr, flush=True)
    settings = {
        "encoder": f"{codec.id:08x}",
        "within": rate_control.TOLERANCE,
        "threads": args.threads,
        "repeats": args.repeats,
    }
    content = {"settings": settings, "summary": [summary(rows, bpp) for bpp in args.targets], "rows": rows}
    return resultfile.write(args.name, "rate", content, folder=args.results)


if __name__ == "__main__":
    try:
        print(run(_arguments()))
    except (PriorCodecError, OSError) as error:
        sys.exit(f"rate.py: {error}")
