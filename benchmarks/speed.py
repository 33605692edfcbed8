"""How long coding takes and how much memory, part by part.   python benchmarks/speed.py NAME --codecs nano_pixel avif

    encode | decode = entropy decode, preview, adapter, denoiser, to pixels | whole commands from the shell (--commands)
Every codec and size runs in a fresh process, so that its peak memory is its own: what torch allocated on a GPU,
elsewhere the whole process. `--random sd15 sdxl pixart` times full-size backbones with random weights, which take as
long: without and with adapter, per --dtypes, compiled with --compile. Ratios are against --anchor in the same run.
CompressAI models are timed with random weights.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import coders
import numpy as np
import resultfile
from PIL import Image
from rd import make

from priorcodec.cli import ENVIRONMENT
from priorcodec.core.errors import ConfigError, PriorCodecError
from priorcodec.core.image import io as image_io

DEMO = Path(__file__).parents[1] / "priorcodec" / "demo" / "coffee.webp"
CHANNELS, LEVELS = 112, 12  # of the shipped encoder, whose features an adapter for a random backbone is built for
Stages = Iterator[tuple[str, Callable[[], Any]]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One codec at one size. kind: coder, random (a full-size backbone) or command; size: (width, height)."""

    kind: str
    codec: str
    size: tuple[int, int]
    image: Path
    repeats: int
    threads: int
    device: str
    dtype: str
    compiled: bool


def measure(task: Task) -> list[dict[str, Any]]:
    """In its own process -> one row per stage."""
    os.environ |= {"SVT_LOG": "1", "OMP_NUM_THREADS": str(task.threads)}
    kinds = {"coder": _coder, "random": _random, "command": _commands}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stage, work in kinds[task.kind](task, Path(folder)):
            width, height = task.size
            about = {"codec": coder_of(task).name if task.kind == "coder" else task.codec, "stage": stage}
            about |= {"device": _device(task, stage), "width": width, "height": height}
            rows.append({**about, "ms": round(_milliseconds(work, task), 2)})
    peak = _peak_mib(task)
    return [{**row, "peak_mib": peak} for row in rows]


def coder_of(task: Task) -> coders.Coder:
    return coders.untrained(task.codec) if task.codec in coders.COMPRESSAI else make(task.codec, None)


def _coder(task: Task, folder: Path) -> Stages:
    coder, pixels = coder_of(task), _pixels(task)
    setting = coder.settings[len(coder.settings) // 2]
    file = folder / f"image{coder.suffix}"
    yield "encode", lambda: file.write_bytes(coder.encode(pixels, setting, "image"))
    yield "decode", lambda: coder.decode(file)
    if not coder.ours:
        return
    import ours  # and torch, which reads the number of threads when it is imported
    import torch

    session, data = ours.session(task.codec), file.read_bytes()
    decoded, backbone = session.codec.decode(data), task.codec.partition(":")[0] not in ours.PREVIEWS
    yield "entropy decode", lambda: session.codec.decode(data)
    perceptual = backbone or task.codec.startswith("perceptual")
    yield "preview", lambda: session.codec.preview_tensor(decoded, perceptual=perceptual)
    if backbone:
        quality = torch.tensor([decoded.quality], device=decoded.y_hat.device)
        preview = session.codec.preview_tensor(decoded, perceptual=True)
        yield from _parts(session.adapter, session.adapter.attached, decoded.y_hat, quality, preview)


def _parts(adapter: Any, backbone: Any, y_hat: Any, quality: Any, preview: Any) -> Stages:
    """Adapter, denoiser and the way to pixels, each fed what the one before it gave."""
    import torch

    from priorcodec.backbones.conditions import make_condition

    with torch.inference_mode():
        z, t = adapter.bridge(y_hat, quality, preview)[0], adapter.start_time(quality)
        condition = make_condition(adapter.spec, z, tokens=1, values=y_hat.new_zeros)
    without = "" if adapter.backbone else " without adapter"
    yield f"denoiser{without}", torch.inference_mode()(lambda: backbone.predict(z, t, condition))
    if adapter.backbone:

        def once() -> None:
            adapter.pyramid(adapter.bridge(y_hat, quality, preview)[1])
            adapter.tokens(y_hat, quality)
            if adapter.refiner is not None:
                adapter.refiner(preview, preview, quality)

        yield "adapter", torch.inference_mode()(once)
        yield "to pixels", torch.inference_mode()(lambda: backbone.to_pixels(z))
        whole = torch.inference_mode()(lambda: adapter.to_pixels(adapter(y_hat, quality, preview).z, quality, preview))
        yield "decode after entropy", whole


def _random(task: Task, _: Path) -> Stages:
    import torch

    from priorcodec.adapters.adapter import Adapter
    from priorcodec.adapters.config import AdapterConfig
    from priorcodec.registry import open_registry

    spec = open_registry().spec(task.codec)
    with torch.device(task.device):
        backbone: Any = spec.build(None, dtype=getattr(torch, task.dtype))
    backbone.to(task.device)
    width, height = (-(-side // 64) * 64 for side in task.size)
    y_hat = torch.randn(1, CHANNELS, height // 16, width // 16, device=task.device)
    quality, preview = torch.tensor([3.0], device=task.device), torch.zeros(1, 3, height, width, device=task.device)
    adapter = Adapter(spec, AdapterConfig(), m=CHANNELS, levels=LEVELS).to(task.device).requires_grad_(False).eval()
    yield from _parts(adapter, backbone, y_hat, quality, preview)
    adapter.inject(backbone)
    adapter.requires_grad_(False).to(task.device)
    if task.compiled:
        backbone.module.compile()
        backbone.vae.decoder.compile()
    yield from _parts(adapter, backbone, y_hat, quality, preview)


def _commands(task: Task, folder: Path) -> Stages:
    """The program as a shell starts it, Python's and torch's start included."""
    source, coded = folder / "image.png", folder / "image.gic"
    image_io.save(_pixels(task), source)
    program = [sys.executable, "-m", "priorcodec.cli"]
    quiet = partial(subprocess.run, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    yield "command encode", lambda: quiet([*program, "encode", source, "-o", coded, "--force"])
    yield "command preview", lambda: quiet([*program, "preview", coded, "-o", folder / "p.png", "--force"])
    decode = [*program, "decode", coded, "-o", folder / "d.png", "--force", "--backbone", task.codec]
    yield "command decode", lambda: quiet(decode)


def _pixels(task: Task) -> np.ndarray:
    return np.array(Image.fromarray(image_io.load(task.image).pixels).resize(task.size, Image.Resampling.LANCZOS))


def _device(task: Task, stage: str) -> str:
    compiled = " compiled" if task.compiled and "without" not in stage else ""
    return f"{task.device} {task.dtype}{compiled}" if task.kind == "random" else task.device


def _milliseconds(work: Callable[[], Any], task: Task) -> float:
    """Median over the repeats, after one run that is not counted."""
    times = []
    for _ in range(task.repeats + 1):
        start = time.perf_counter()
        work()
        if task.device != "cpu":
            import torch

            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * median(times[1:])


def _peak_mib(task: Task) -> int:
    if task.device != "cpu" and task.kind != "command":
        import torch

        return torch.cuda.max_memory_allocated() >> 20
    if task.kind == "command":
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    return peak_rss_mib()


def peak_rss_mib() -> int:
    """Of this process."""
    status = Path("/proc/self/status")  # ru_maxrss would count what the parent held when it forked
    lines = status.read_text().splitlines() if status.exists() else []
    kib = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    return (kib or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) >> 10


def _tasks(args: argparse.Namespace, left_out: list[str]) -> Iterator[Task]:
    import ours

    common = {"image": args.image, "repeats": args.repeats, "threads": args.threads, "device": args.device}
    for size, codec in itertools.product(args.sizes, args.codecs):
        plain = {"codec": codec, "size": size, "dtype": "float32", "compiled": False, **common}
        coder = coder_of(Task(kind="coder", **plain))
        if coder.missing is None:
            yield Task(kind="coder", **plain)
        elif size == args.sizes[0]:
            left_out.append(resultfile.scrub(coder.missing))
        if args.commands and coder.missing is None and coder.ours and ":" not in codec and codec not in ours.PREVIEWS:
            yield Task(kind="command", **plain)
    modes = itertools.product(args.random, args.sizes, args.dtypes, (False, True) if args.compile else (False,))
    for codec, size, dtype, compiled in modes:
        yield Task(kind="random", codec=codec, size=size, dtype=dtype, compiled=compiled, **common)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def _arguments() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("name", help="results/NAME.json")
    cli.add_argument("--codecs", nargs="*", default=[])
    cli.add_argument("--random", nargs="*", default=[], help="full-size backbones with random weights")
    cli.add_argument("--sizes", nargs="+", type=_size, default=[(256, 256), (768, 512), (1024, 1024)], help="WxH")
    cli.add_argument("--dtypes", nargs="+", default=["float32"])
    cli.add_argument("--compile", action="store_true")
    cli.add_argument("--commands", action="store_true")
    cli.add_argument("--device", default="cpu")
    cli.add_argument("--anchor", default="avif")
    cli.add_argument("--repeats", type=int, default=5)
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--image", type=Path, default=DEMO, help="resized to every size")
    cli.add_argument("--results", type=Path, default=resultfile.RESULTS)
    return cli.parse_args()


def run(args: argparse.Namespace) -> Path:
    rows, left_out = [], []
    for name, value in ENVIRONMENT.items():  # as the command line does; the processes that measure inherit it
        os.environ.setdefault(name, value)
    for task in _tasks(args, left_out):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            try:
                rows += fresh.submit(measure, task).result()
            except (PriorCodecError, subprocess.CalledProcessError, RuntimeError, MemoryError) as error:
                what = " ".join(str(error).split())[:200]
                left_out.append(resultfile.scrub(f"{task.codec} at {task.size[0]}x{task.size[1]}: {what}"))
        print(f"{task.codec} {task.kind} {task.size[0]}x{task.size[1]}", file=sys.stderr, flush=True)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if not rows:
        raise ConfigError("nothing was timed: give --codecs or --random something that runs here")
    anchor = {(r["stage"], r["width"], r["height"]): r["ms"] for r in rows if r["codec"] == args.anchor}
    for row in rows:
        base = anchor.get((row["stage"], row["width"], row["height"]))
        row["ratio"] = round(row["ms"] / base, 3) if base else None
    settings = {"repeats": args.repeats, "threads": args.threads, "anchor": args.anchor}
    titles = {r["codec"]: r["codec"] for r in rows}
    content = {"settings": settings, "codecs": titles, "left_out": left_out, "rows": rows}
    return resultfile.write(args.name, "speed", content, folder=args.results)


if __name__ == "__main__":
    try:
        print(run(_arguments()))
    except PriorCodecError as error:
        sys.exit(f"speed.py: {error}")
