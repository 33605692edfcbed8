"""The main job on real images: files written by one process, read by others.   python benchmarks/mainjob.py NAME IMAGES WORK

For every image and level: file size against the entropy tables' estimate, growth with quality; then, in processes of their own
with other thread counts and library switches, the symbols' hashes; and seconds and peak memory of encoding and decoding.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import resultfile

READERS = ({"threads": 1, "mkldnn": True}, {"threads": 2, "mkldnn": True}, {"threads": 2, "mkldnn": False})


def encode(images: list[Path], work: Path) -> list[dict[str, Any]]:
    from priorcodec import open_session
    from priorcodec.core import container
    from priorcodec.core.image import io as image_io
    from priorcodec.core.io import atomic

    session, rows = open_session(), []
    for path in images:
        pixels = image_io.load(path).pixels
        for level in range(session.codec.levels):
            started = time.perf_counter()
            encoded = session.codec.encode(pixels, level)
            seconds = time.perf_counter() - started
            name = f"{path.stem}-q{level}.gic"
            atomic.write(work / name, encoded.data)
            overhead = container.overhead_bytes(encoded.container)
            estimate = (encoded.z_bits + encoded.y_bits) / 8 + overhead
            rows.append(
                {
                    "file": name,
                    "image": path.stem,
                    "level": level,
                    "bytes": len(encoded.data),
                    "bpp": round(8 * len(encoded.data) / (pixels.shape[0] * pixels.shape[1]), 5),
                    "overhead_bytes": overhead,
                    "over_estimate": round(len(encoded.data) / estimate - 1, 5),
                    "symbols_sha256": encoded.symbols_sha256,
                    "encode_seconds": round(seconds, 3),
                }
            )
    return rows


def read(work: Path, threads: int, mkldnn: bool) -> dict[str, str]:
    """File name -> hash of its symbols, in this process."""
    import torch

    from priorcodec.core.codec import Codec

    torch.set_num_threads(threads)
    torch.backends.mkldnn.enabled = mkldnn  # pyright: ignore[reportAttributeAccessIssue]
    codec = Codec()
    return {path.name: codec.read(path.read_bytes())[2] for path in sorted(work.glob("*.gic"))}


def speed(image: Path, backbone: str) -> dict[str, float]:
    """Seconds in process (median of 5 after a warm-up) and peak memory of this whole process."""
    from priorcodec import open_session
    from priorcodec.core.image import io as image_io

    session, pixels = open_session(backbone=backbone), image_io.load(image).pixels
    data = session.encode(pixels, 4)
    stages = {
        "encode_seconds": lambda: session.encode(pixels, 4),
        "preview_seconds": lambda: session.preview(data),
        "decode_seconds": lambda: session.decode(data),
    }
    out = {}
    for name, stage in stages.items():
        stage()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            stage()
            times.append(time.perf_counter() - started)
        out[name] = round(statistics.median(times), 3)
    out["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return out


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("name")
    cli.add_argument("images", type=Path)
    cli.add_argument("work", type=Path, help="folder for the coded files")
    cli.add_argument("--backbone", default="nano_pixel")
    cli.add_argument("--step", help=argparse.SUPPRESS)
    args = cli.parse_args()
    images = sorted(args.images.glob("*.png")) or sorted(args.images.glob("*.webp"))
    if args.step:
        step = json.loads(args.step)
        print(json.dumps(speed(images[0], args.backbone) if step == "speed" else read(args.work, **step)))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    rows = encode(images, args.work)
    wanted = {row["file"]: row["symbols_sha256"] for row in rows}
    readers = [{**reader, "files_that_differ": _differ(wanted, _other(reader))} for reader in READERS]
    bpp = {level: [r["bpp"] for r in rows if r["level"] == level] for level in sorted({r["level"] for r in rows})}
    curves = {p.stem: [r["bpp"] for r in rows if r["image"] == p.stem] for p in images}
    summary = {
        "images": len(images),
        "mean_bpp_by_level": [round(statistics.mean(values), 4) for values in bpp.values()],
        "images_whose_size_rises_with_every_level": sum(c == sorted(set(c)) for c in curves.values()),
        "largest_overhead_bytes": max(row["overhead_bytes"] for row in rows),
        "largest_deviation_from_estimate": max(abs(row["over_estimate"]) for row in rows),
        "mean_deviation_from_estimate": round(statistics.mean(row["over_estimate"] for row in rows), 5),
        "readers": readers,
        "speed_768x512": _other("speed"),
    }
    print(json.dumps(summary, indent=1))
    resultfile.write(args.name, "mainjob", {"summary": summary, "rows": rows})


def _other(step: Any) -> Any:
    """This script again, in a process of its own."""
    command = [sys.executable, *sys.argv, "--step", json.dumps(step)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _differ(wanted: dict[str, str], got: dict[str, str]) -> int:
    return sum(got.get(name) != digest for name, digest in wanted.items())


if __name__ == "__main__":
    main()
