"""Cost of training an adapter at full size: real architectures with random weights, the trainer's own loss and loop.

python benchmarks/train_step.py sd15 [--side 256] [--batch 1] [--steps 3] [--dtype float32] [--checkpointing] [--write]
On a GPU (default side 512): images per second and peak memory of every given batch size. Random weights: the times are real, the
loss is not. One process per row, so that each peak is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def measure(name: str, side: int, batch: int, steps: int, dtype: str, checkpointing: bool) -> dict[str, Any]:
    """Seconds of each step (the first one warms up), the process's peak memory, and the load average of the machine."""
    import torch
    from accelerate import Accelerator

    from priorcodec.adapters.adapter import Adapter
    from priorcodec.adapters.config import AdapterConfig
    from priorcodec.core import shipped
    from priorcodec.core.precision import bfloat16_is_fast
    from priorcodec.core.weights import load_simulation
    from priorcodec.registry import open_registry
    from priorcodec.training.adapter import Objective
    from priorcodec.training.frozen import checkpoint_gradients
    from priorcodec.training.loop import Budget, Loop
    from priorcodec.training.perceptual import PerceptualDistance
    from priorcodec.training.settings import LossWeights

    bf16 = bfloat16_is_fast("cuda" if torch.accelerator.is_available() else "cpu")
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    device, gpu = accelerator.device, accelerator.device.type == "cuda"
    spec = open_registry().spec(name)
    with torch.device("meta"):
        backbone: Any = spec.build(None, dtype=getattr(torch, dtype))
    backbone.to_empty(device=device)
    torch.manual_seed(0)
    alphas = torch.linspace(0.999, 0.005, len(backbone.alphas))
    with torch.no_grad():
        backbone.alphas.copy_(alphas)  # emptied with the rest
        for weight in backbone.parameters():
            weight.normal_(0, 0.02) if weight.ndim > 1 else weight.fill_(0.5)  # scales of norms must not vanish
    backbone.requires_grad_(False).eval()
    encoder = load_simulation(shipped.ENCODER).to(device)
    adapter = Adapter(spec, AdapterConfig(), m=encoder.config.m, levels=encoder.config.levels)
    adapter.inject(backbone)
    for parameter in adapter.trainable():
        parameter.data = parameter.data.to(device, torch.float32)
    adapter.to(device)
    if checkpointing and not checkpoint_gradients(backbone):
        raise SystemExit(f"{name} has no gradient checkpointing")
    distance = PerceptualDistance().to(device)
    objective = Objective(adapter, encoder, LossWeights(), distance=distance, bf16=bf16).to(device)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    quality = torch.linspace(0, adapter.levels - 1, batch, device=device)
    channels, *sides = adapter.noise_shape(side, side)
    noise = torch.randn(batch, 2 * channels, *sides, device=device)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(objective, Path(folder), Budget(lr=1e-6, steps=steps), accelerator=accelerator)
        loop.save = lambda: None  # gigabytes that nobody reads
        start = time.perf_counter()

        def after(row: object) -> None:
            nonlocal start
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()

        def loss(step: int) -> tuple[Any, dict[str, float]]:
            return loop.wrapped(images, quality, distance.draw(random.Random(0), (side, side)), noise)[0], {}

        loop.run(loss, after=after)
    steady = statistics.median(seconds[1:] or seconds)
    peak = torch.cuda.max_memory_allocated() if gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "backbone": name, "device": torch.cuda.get_device_name() if gpu else "cpu", "threads": torch.get_num_threads(),
        "side": side, "batch": batch, "dtype": dtype, "gradient_checkpointing": checkpointing,
        "trained_parameters": sum(p.numel() for p in adapter.trainable()), "backbone_parameters": spec.parameters,
        "first_step_s": round(seconds[0], 2), "step_s": round(steady, 3), "steps": steps,
        "images_per_s": round(batch / steady, 3), "peak_bytes": peak, "load": round(os.getloadavg()[0], 1),
    } | ({"fits_24_GB": peak < 24e9} if gpu else {})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+")
    parser.add_argument("--side", type=int, help="of the images; default 512 on a GPU, else 256")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="of the frozen weights")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing of the backbone")
    parser.add_argument("--write", action="store_true", help="keep the rows as benchmarks/results/train_step.json")
    parser.add_argument("--add", action="store_true", help="with --write: behind the rows already there")
    parser.add_argument("--one", action="store_true", help="used by the script itself")
    given = parser.parse_args()
    import torch

    side = given.side or (512 if torch.cuda.is_available() else 256)
    if given.one:
        row = measure(given.backbones[0], side, given.batch[0], given.steps, given.dtype, given.checkpointing)
        print(json.dumps(row))
        return
    rows = []
    for name in given.backbones:
        for batch in given.batch:
            words = [sys.executable, __file__, name, "--one", "--side", side, "--batch", batch, "--steps", given.steps]
            words += ["--dtype", given.dtype, *(["--checkpointing"] if given.checkpointing else [])]
            done = subprocess.run([str(word) for word in words], check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    if given.write:
        sys.path.insert(0, str(Path(__file__).parent))
        import resultfile

        old = resultfile.RESULTS / "train_step.json"
        if given.add and old.exists():
            rows = json.loads(old.read_text())["rows"] + rows
        resultfile.write("train_step", "train_step", {"rows": rows})


if __name__ == "__main__":
    main()
