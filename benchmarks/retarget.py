"""What an adapter alone can do: another backbone on the same files, and each part of the adapter left out in turn.

python benchmarks/retarget.py TABLE PACKED IMAGES WORK --minutes 4

TABLE: `retarget` (nano_dit, warm-started from nano_pixel's shipped adapter, against the alternatives) or `ablation` (nano_pixel's
adapter trained with one part less). Rows are trained for the same minutes on one thread, side by side if `--jobs` says so, and
measured on the same files on disk by a network that nothing here is trained on.

PACKED: training images as `priorcodec train` takes them; IMAGES: folder to measure on.
Writes benchmarks/results/TABLE.json; a row that is in WORK already is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import resultfile

from priorcodec.core import shipped
from priorcodec.evaluation import bd_rate, metrics

LITE1 = "lite1_lpips"
METRICS = (LITE1, "psnr")
SCRATCH = "everything from scratch"
DEFAULT = "nano_pixel"
SHIPPED = [f"start={shipped.FOLDER / f'{DEFAULT}.adapter.safetensors'}"]
TABLES: dict[str, dict[str, tuple[str, list[str]]]] = {
    "retarget": {
        f"warm start from {DEFAULT}'s": ("nano_dit", SHIPPED),
        "no warm start": ("nano_dit", []),
        "LoRA only": ("nano_dit", ["train=lora"]),
        "bridge only": (
            "nano_dit",
            ["train=bridge", "adapter.lora_rank=0", "adapter.refiner=0"],
        ),
        SCRATCH: ("nano_dit", ["loss.latent=0", "loss.moments=0"]),
    },
    "ablation": {
        "default": (DEFAULT, []),
        "no LoRA": (DEFAULT, ["adapter.lora_rank=0"]),
        "no residual refiner": (DEFAULT, ["adapter.refiner=0"]),
        "no noise": (DEFAULT, ["adapter.noise_channels=0"]),
        "one start time": (DEFAULT, ["adapter.start=[170.0,170.0]"]),
        "no attentive fusion": (DEFAULT, ["adapter.fusion=0"]),
        "no token mapper": (DEFAULT, ["adapter.mapper=false"]),
    },
}
COMMON = ["device=cpu", "warmup=20", "ema=0.98", "log_every=10"]


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("table", choices=TABLES)
    cli.add_argument("packed")
    cli.add_argument("images", type=Path)
    cli.add_argument("work", type=Path)
    cli.add_argument("--minutes", type=float, default=4.0)
    cli.add_argument("--qualities", type=float, nargs="+", default=[2.0, 5.0, 8.0, 11.0])
    cli.add_argument("--jobs", type=int, default=1)
    cli.add_argument("--row", help=argparse.SUPPRESS)
    args = cli.parse_args()
    if args.row:
        row(args)
        return
    asked = {key: str(value) for key, value in vars(args).items() if key not in ("jobs", "work")}
    asked = json.dumps(asked | {"encoder": shipped.manifest()[shipped.ENCODER.name]})
    kept = args.work / args.table / "asked.json"
    if kept.exists() and kept.read_text() != asked:
        sys.exit(f"{kept.parent} holds rows of other settings or another encoder: take another folder, or remove it")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(asked)
    rows = TABLES[args.table]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda name: subprocess.run([sys.executable, *sys.argv, "--row", name], check=True), rows))
    made = [json.loads((args.work / args.table / slug(name) / "row.json").read_text()) for name in rows]
    made += [measured_default(args)] if args.table == "retarget" else []
    anchor = made[-1] if args.table == "retarget" else made[0]
    for one in made:
        one["bd_rate"] = bd(anchor, one)
    content = {"minutes": args.minutes, "images": len(list(args.images.glob("*.png"))), "rows": made}
    print(resultfile.write(args.table, "adapter", content))


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def row(args: argparse.Namespace) -> None:
    """Train one row and measure it; keeps row.json in its folder."""
    import torch

    torch.set_num_threads(1)
    folder = args.work / args.table / slug(args.row)
    if (folder / "row.json").exists():
        return
    backbone, words = TABLES[args.table][args.row]
    words = [*COMMON, f"backbone={backbone}", f"data={args.packed}", f"run={folder}", f"minutes={args.minutes}", *words]
    started = time.monotonic()
    session = scratch(words) if args.row == SCRATCH else adapted(words, backbone)
    seconds = time.monotonic() - started
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    spec = session.registry.spec(backbone)
    trained = json.loads((folder / "trained.json").read_text()) if args.row == SCRATCH else parameters(folder, words)
    result = {
        "row": args.row, "backbone": backbone, "trained": trained, "share": round(trained / spec.parameters, 4),
        "steps": log[-1]["step"], "seconds": round(60 * log[-1]["minutes"]), "with_loading": round(seconds),
        "levels": measure(session, args),
    }  # fmt: skip
    (folder / "row.json").write_text(json.dumps(result))


def adapted(words: list[str], backbone: str) -> Any:
    """What `priorcodec train adapter` makes, as a session reads it from its file."""
    from priorcodec import open_session
    from priorcodec.training.adapter import train_adapter

    return open_session(backbone, adapter=str(train_adapter(words)))


def parameters(folder: Path, words: list[str]) -> int:
    """Numbers in the adapter's file that this row trained."""
    from priorcodec.adapters import file as adapter_file

    file = adapter_file.read(next(folder.glob("*.adapter.safetensors")))
    prefix = {"train=lora": "lora.", "train=bridge": "own.bridge."}
    wanted = next((prefix[word] for word in words if word in prefix), "")
    return sum(value.numel() for name, value in file.tensors.items() if name.startswith(wanted))


def scratch(words: list[str]) -> Any:
    """The same decoder without anything pretrained: fresh denoiser and adapter, all of it trained at once."""
    import torch

    from priorcodec import open_registry, open_session
    from priorcodec.adapters import hub
    from priorcodec.adapters.adapter import Adapter
    from priorcodec.core.weights import load_simulation
    from priorcodec.training import words as settings
    from priorcodec.training.adapter import Objective
    from priorcodec.training.perceptual import PerceptualDistance
    from priorcodec.training.run import Run
    from priorcodec.training.settings import AdapterRunConfig

    config = settings.from_words(AdapterRunConfig, words, backbones=[DEFAULT, "nano_dit"])
    spec = open_registry().spec(config.backbone.name)
    run = Run(config, result=hub.file_name(spec.name))
    backbone: Any = spec.build(None, dtype=torch.float32).to(memory_format=torch.channels_last)  # pyright: ignore
    backbone.requires_grad_(True).train()
    encoder = load_simulation(shipped.ENCODER).to(memory_format=torch.channels_last)  # pyright: ignore
    adapter = Adapter(spec, replace(config.sizes(), lora_rank=0), m=encoder.config.m, levels=encoder.config.levels)
    adapter.inject(backbone)
    distance = PerceptualDistance().to(memory_format=torch.channels_last)  # pyright: ignore
    objective = Objective(adapter, encoder, config.loss, distance=distance, bf16=run.bf16)
    objective.backbone = backbone
    (run.folder / "trained.json").write_text(str(sum(p.numel() for p in objective.parameters())))

    loop = run.loop(objective, identity={})
    batches = run.batches(loop, encoder.config.levels)
    loop.run(lambda step: objective.step(loop.wrapped, next(batches)))
    loop.swap_average()
    session = open_session(spec.name)
    session._adapter = adapter.requires_grad_(False).eval()  # no file holds a whole decoder
    backbone.eval()
    return session


def measure(session: Any, args: argparse.Namespace) -> list[dict[str, float]]:
    """Mean rate, scores and processor seconds of a decode per quality, of files on disk."""
    from priorcodec.core.image import io as image_io

    rows = []
    for quality in args.qualities:
        scores = []
        for path in sorted(args.images.glob("*.png")):
            file = args.work / "files" / f"{path.stem}-q{quality}.gic"
            pixels = image_io.load(path).pixels
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                part = file.with_suffix(f".{slug(args.row or 'default')}")
                part.write_bytes(session.encode(pixels, quality))
                part.replace(file)
            started = time.process_time()
            decoded = session.decode(file, output="np")
            row = {"decode_seconds": time.process_time() - started}
            row["bpp"] = metrics.bpp(file.stat().st_size, *pixels.shape[:2])
            scores.append(row | metrics.score(pixels, decoded, METRICS))
        rows.append(
            {"quality": quality} | {key: round(sum(s[key] for s in scores) / len(scores), 5) for key in scores[0]}
        )
    return rows


def measured_default(args: argparse.Namespace) -> dict[str, Any]:
    """The default backbone with its shipped adapter: the anchor of the rates."""
    from priorcodec import open_session
    from priorcodec.adapters import file as adapter_file

    kept = args.work / args.table / "default.json"
    if not kept.exists():
        session = open_session(DEFAULT)
        file = adapter_file.read(shipped.FOLDER / f"{DEFAULT}.adapter.safetensors")
        count = sum(value.numel() for value in file.tensors.values())
        spec = session.registry.spec(DEFAULT)
        row = {"row": "shipped", "backbone": DEFAULT, "trained": count, "share": round(count / spec.parameters, 4)}
        row |= {"steps": int(file.metadata["steps"]), "seconds": 0}  # on another machine
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({**row, "levels": measure(session, args)}))
    return json.loads(kept.read_text())


def bd(anchor: dict[str, Any], one: dict[str, Any]) -> float | None:
    """BD-rate by Lite1 in LPIPS form, in percent; None where the curves do not overlap."""
    points = [[(level["bpp"], level[LITE1]) for level in side["levels"]] for side in (anchor, one)]
    rate = bd_rate.bd_rate(points[0], points[1], higher_is_better=False).percent
    return None if rate is None else round(rate, 2)


if __name__ == "__main__":
    main()
