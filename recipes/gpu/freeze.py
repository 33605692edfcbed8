"""Write a trained backbone as the file that ships: python -m recipes.gpu.freeze NAME TRAINED.safetensors --steps 602 [--float8]

TRAINED is what decoder.py wrote. The tensors stay as they are, or with --float8 large matrices are rounded to float8_e4m3
where that changes them by less than 5% (nano_dit: 7.2 instead of 10.4 MiB). The same tensors give the same bytes. The SHA-256
printed goes into the SPEC and is written into the manifest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from priorcodec.core import shipped
from priorcodec.core.io import atomic, safetensors
from recipes.encoder2.release import LICENSE, pin


def rounded(x: Tensor) -> Tensor:
    """A matrix in float8_e4m3 if it is large and hardly changes, any other tensor as it is."""
    if x.ndim != 2 or x.numel() <= 10_000:
        return x
    small = x.to(torch.float8_e4m3fn)
    return small if (small.float() - x.float()).norm() < 0.05 * x.float().norm() else x


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("name")
    cli.add_argument("trained", type=Path)
    cli.add_argument("--steps", type=int, required=True)
    cli.add_argument("--float8", action="store_true")
    cli.add_argument("--out", type=Path, default=shipped.FOLDER)
    given = cli.parse_args()
    target = given.out / f"{given.name}.safetensors"
    metadata = {"license": LICENSE, "steps": str(given.steps)}
    tensors = load_file(given.trained)
    if given.float8:
        tensors = {name: rounded(value).contiguous() for name, value in tensors.items()}
    atomic.write(target, safetensors.to_bytes(tensors, metadata))
    print(pin(target))


if __name__ == "__main__":
    main()
