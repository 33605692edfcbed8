"""A large image against a small one, each in a fresh process: seconds per megapixel, peak memory, and whether tiles show.

python benchmarks/high_resolution.py PATH/TO/kodak [--sizes 1024 8192] [--backbone nano_pixel] [--threads 1] [--keep FOLDER]
The images are a mosaic of photographs at twice their size, every other one mirrored; the small one is its middle. Models are
loaded and warm before the clock runs. Seconds are wall clock, CPU seconds processor time over all threads: the two part when
the machine has other work. Peak memory is that of the whole process, PNG reading included.

A seam is a step that goes on along the border of two tiles, as no texture does. Of every line across which pixels are
compared, 64 neighboring differences are averaged, and the size of that average is the line's step. `step_ratio` is the steps
at the borders of tiles against those of lines 64, 128, ... 512 pixels beside them, which lie as they do on the grids of all
networks: about 1 where no border shows. `seam` is what the borders have more, `variation` how much neighboring pixels differ
on those lines anyway, both in levels of 255.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import resultfile
from PIL import Image
from speed import peak_rss_mib

from priorcodec.cli import ENVIRONMENT

SEGMENT = 64  # pixels along a border that are averaged
BESIDE = tuple(64 * k for k in range(-8, 9) if k)  # pixels from the border: where the image's own steps are taken
OFFSET = (217, 333)  # of the mosaic, so that no border of its photographs is one of a tile's


def mosaic(folder: Path, side: int) -> np.ndarray:
    """uint8 (side, side, 3)."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".webp"))
    if not files:
        sys.exit(f"high_resolution.py: {folder} has no images")
    canvas = np.empty((side + OFFSET[0], side + OFFSET[1], 3), np.uint8)
    top, number = 0, 0
    while top < canvas.shape[0]:
        left, height = 0, 0
        while left < canvas.shape[1]:
            with Image.open(files[number % len(files)]) as opened:
                image = opened.convert("RGB")
            if image.height > image.width:
                image = image.transpose(Image.Transpose.ROTATE_90)
            if number % 2:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            big = np.asarray(image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS))
            room = canvas[top : top + big.shape[0], left : left + big.shape[1]]
            room[:] = big[: room.shape[0], : room.shape[1]]
            left, height, number = left + big.shape[1], max(height, big.shape[0]), number + 1
        top += height
    return canvas[OFFSET[0] :, OFFSET[1] :]


def seams(pixels: np.ndarray, rows: list[int], columns: list[int]) -> dict[str, float]:
    """Steps across the lines above `rows` and left of `columns` against those of lines beside them."""
    at, near, variation = [], [], []
    for image, borders in ((pixels, rows), (pixels.swapaxes(0, 1), columns)):
        for border in borders:
            at.append(_step(_difference(image, border)))
            beside = [_difference(image, border + k) for k in BESIDE if 0 < border + k < len(image)]
            near.append(float(np.mean([_step(d) for d in beside])))
            variation.append(float(np.mean([np.abs(d).mean() for d in beside])))
    steps, own = float(np.mean(at)), float(np.mean(near))
    return {
        "step_ratio": round(steps / own, 4),
        "seam": round(steps - own, 4),
        "variation": round(float(np.mean(variation)), 4),
    }


def _difference(image: np.ndarray, line: int) -> np.ndarray:
    return image[line].astype(np.float64).mean(-1) - image[line - 1].astype(np.float64).mean(-1)


def _step(difference: np.ndarray) -> float:
    length = len(difference) // SEGMENT * SEGMENT or len(difference)
    return float(np.abs(difference[:length].reshape(-1, min(SEGMENT, length)).mean(1)).mean())


def encode(source: Path, coded: Path, given: argparse.Namespace) -> dict[str, Any]:
    from priorcodec import open_session
    from priorcodec.core import tiling
    from priorcodec.core.image import io as image_io

    session = open_session(tile=given.tile or None)
    session.encode(np.zeros((256, 256, 3), np.uint8), given.quality)
    found = _timed(lambda: session.encode(source, given.quality), given.repeats)
    coded.write_bytes(found.pop("result"))
    height, width = image_io.load(source).pixels.shape[:2]
    parts = len(tiling.plan(height, width, session.codec.tile, 0))
    return {**found, "bytes": coded.stat().st_size, "tile": session.codec.tile, "tiles": parts}


def decode(coded: Path, target: Path, given: argparse.Namespace) -> dict[str, Any]:
    from priorcodec import open_session

    session = open_session(given.backbone, tile=given.tile or None)
    session.decode(session.encode(np.zeros((256, 256, 3), np.uint8), given.quality))
    found = _timed(lambda: session.decode(coded, output="np"), given.repeats)
    pixels, found["peak_mib"] = found.pop("result"), peak_rss_mib()
    decoded = session.codec.decode(coded.read_bytes())
    plan = session.plan(decoded.height, decoded.width)
    np.save(target, pixels)
    borders = [span.start for span in plan.rows[1:]], [span.start for span in plan.columns[1:]]
    about = {"tile": session.tile, "tiles": len(plan), "borders": borders}
    return {**found, **about, **(seams(pixels, *borders) if len(plan) > 1 else {})}


def _timed(work: Any, repeats: int) -> dict[str, Any]:
    """Medians over the repeats, the last result, and the peak memory until now."""
    seconds, cpu, result = [], [], None
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = work()
        seconds.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return {"seconds": median(seconds), "cpu_seconds": median(cpu), "peak_mib": peak_rss_mib(), "result": result}


def rows(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    large = mosaic(given.images, max(given.sizes))
    for size in given.sizes:
        edge = (len(large) - size) // 2
        Image.fromarray(large[edge : edge + size, edge : edge + size]).save(folder / f"{size}.png", compress_level=1)
    del large
    for size in given.sizes:
        repeats = given.repeats if size < max(given.sizes) else 1
        for stage, source, target in (("encode", "png", "gic"), ("decode", "gic", "npy")):
            words = [
                *sys.argv,
                "--stage",
                stage,
                "--from",
                folder / f"{size}.{source}",
                "--to",
                folder / f"{size}.{target}",
            ]
            done = subprocess.run(
                [sys.executable, *map(str, words), "--repeats", str(repeats)],
                env={**os.environ, "OMP_NUM_THREADS": str(given.threads)}, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
            for kind in ("seconds", "cpu_seconds"):
                found[f"{kind}_per_mp"] = round(found[kind] / (size * size / 1e6), 4)
                found[kind] = round(found[kind], 2)
            yield {"stage": stage, "size": size, "threads": given.threads, **found}


def crops(pixels: np.ndarray, borders: list[list[int]], folder: Path) -> None:
    """512 x 512 around where borders cross, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in borders[0]:
        for column in borders[1]:
            part = pixels[max(0, row - 256) : row + 256, max(0, column - 256) : column + 256]
            Image.fromarray(part).save(folder / f"crossing-{row}-{column}.png")


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("images", type=Path, help="folder of photographs")
    cli.add_argument("--sizes", nargs="+", type=int, default=[1024, 8192], help="sides; the largest is decoded once")
    cli.add_argument("--backbone", default="nano_pixel")
    cli.add_argument("--quality", type=float, default=6.0)
    cli.add_argument("--tile", type=int, default=0, help="force tiles of this side; 0: automatic")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--repeats", type=int, default=3, help="of all but the largest size")
    cli.add_argument("--keep", type=Path, help="folder for crops where tiles meet")
    cli.add_argument("--name", default="high_resolution", help="results/NAME.json")
    cli.add_argument("--results", type=Path, default=resultfile.RESULTS)
    cli.add_argument("--stage", choices=["encode", "decode"], help="used by the script itself")
    cli.add_argument("--from", dest="source", type=Path, help="used by the script itself")
    cli.add_argument("--to", dest="target", type=Path, help="used by the script itself")
    given = cli.parse_args()
    if given.stage:
        print(json.dumps((encode if given.stage == "encode" else decode)(given.source, given.target, given)))
        return
    for name, value in ENVIRONMENT.items():  # as the command line does
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as name:
        found = []
        for row in rows(given, Path(name)):
            print(json.dumps(row), file=sys.stderr, flush=True)
            if given.keep and row["stage"] == "decode" and row["tiles"] > 1:
                crops(np.load(Path(name) / f"{row['size']}.npy", mmap_mode="r"), row["borders"], given.keep)
            found.append({key: value for key, value in row.items() if key != "borders"})
    settings = {"backbone": given.backbone, "quality": given.quality, "repeats": given.repeats}
    print(resultfile.write(given.name, "high_resolution", {"settings": settings, "rows": found}, folder=given.results))


if __name__ == "__main__":
    main()
