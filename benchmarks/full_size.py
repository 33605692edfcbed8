"""Real architectures with random weights: saved as on the Hub, loaded by the real loader, decoded in one step.

python benchmarks/full_size.py sd15 pixart sdxl:bfloat16 [--side 512] [--threads 2] [--write] [--note TEXT]
Each stage runs in a process of its own, so that the peak memory is that of loading and decoding alone. Each *_seconds is
wall clock, each *_cpu_seconds processor time over all threads: the two part when the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def save(name: str, folder: Path, dtype: str) -> None:
    """The folder a download would give, with random weights."""
    import diffusers
    import torch

    from priorcodec.registry import open_registry

    spec = open_registry().spec(name)
    with torch.device("meta"):
        backbone: Any = spec.build(None, dtype=getattr(torch, dtype))
    backbone.to_empty(device="cpu")  # not torch's own initialization: it takes minutes for 2.5 billion weights
    noise = 0.02 * torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    for weight in backbone.parameters():
        if weight.ndim > 1:  # the same noise over and over: drawing 2.5 billion numbers takes a minute
            weight.copy_(noise.repeat(weight.numel() // 2**20 + 1)[: weight.numel()].view_as(weight))
        else:
            weight.fill_(0.5)  # scales of norms must not vanish
    # No buffer of theirs is saved.
    for child, part in ((spec.denoiser_subfolder, backbone.module), (spec.autoencoder_subfolder, backbone.vae)):
        part.save_pretrained(folder / child)
    kinds: Any = diffusers
    linear = spec.denoiser_subfolder == "transformer"
    kinds.DDIMScheduler(
        beta_start=0.0001 if linear else 0.00085,
        beta_end=0.02 if linear else 0.012,
        beta_schedule="linear" if linear else "scaled_linear",
        prediction_type="v_prediction" if spec.prediction == "velocity" else "epsilon",
    ).save_pretrained(folder / spec.scheduler_subfolder)


def decode(name: str, folder: Path, dtype: str, side: int) -> dict[str, Any]:
    """Load, one call of the denoiser, autoencoder; seconds and peak memory in bytes."""
    import torch

    from priorcodec.backbones.conditions import make_condition
    from priorcodec.backbones.diffusion import sample
    from priorcodec.registry import open_registry

    registry = open_registry()
    spec = registry.spec(name)
    start = _clocks()
    backbone: Any = spec.build(registry.weights(spec, str(folder)), dtype=getattr(torch, dtype))
    loaded = _clocks()
    h = side // spec.latent.stride
    z_hat = torch.randn(1, spec.latent.channels, h, h, generator=torch.Generator().manual_seed(0))
    condition = make_condition(spec, z_hat, tokens=1)
    with torch.inference_mode():
        z = sample(
            lambda x_t, t: backbone.predict(x_t, t, condition),
            backbone.alpha_bar,
            spec.prediction,
            z_hat,
            torch.tensor([300.0]),
        )
        denoised = _clocks()
        x = backbone.to_pixels(z)
    done = _clocks()
    return {
        "backbone": name,
        "dtype": dtype,
        "side": side,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "weights": "random",
        "parameters": sum(p.numel() for p in backbone.module.parameters()),
        **_between("load", start, loaded),
        **_between("denoise", loaded, denoised),
        **_between("pixels", denoised, done),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "finite": bool(torch.isfinite(x).all()),
        "shape": list(x.shape),
    }


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _between(stage: str, start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    return {
        f"{stage}_seconds": round(end[0] - start[0], 2),
        f"{stage}_cpu_seconds": round(end[1] - start[1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="backbone, or backbone:dtype")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="keep the rows as benchmarks/results/full_size.json")
    parser.add_argument("--note", default="", help="what else is to be known of this run, kept in the file")
    parser.add_argument("--stage", choices=["save", "decode"], help="used by the script itself")
    parser.add_argument("--folder", type=Path, help="used by the script itself")
    given = parser.parse_args()
    name, _, dtype = given.models[0].partition(":")
    if given.stage == "save":
        save(name, given.folder, dtype)
    elif given.stage == "decode":
        print(json.dumps(decode(name, given.folder, dtype, given.side)))
    else:
        rows = []
        for model in given.models:
            rows.append(measure(model, given.side, given.threads))
            if given.write:  # after each one: they take minutes
                sys.path.insert(0, str(Path(__file__).parent))
                import resultfile

                resultfile.write("full_size", "full_size", {"note": given.note, "rows": rows})
        print(json.dumps(rows, indent=2))
        sys.exit(1 if any("failed" in row for row in rows) else 0)


def measure(model: str, side: int, threads: int) -> dict[str, Any]:
    """Both stages of one backbone, each in a fresh process; a stage that dies gives a row that says so."""
    name, _, dtype = model.partition(":")
    model = f"{name}:{dtype or 'float32'}"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, model, "--side", str(side), "--folder", folder, "--stage"]
        for stage in ("save", "decode"):
            done = subprocess.run([*words, stage], env=environment, stdout=subprocess.PIPE, text=True)
            if done.returncode:  # -9 is what Linux gives a process that asks for more memory than there is
                return {"backbone": name, "dtype": dtype or "float32", "failed": f"{stage}: exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
