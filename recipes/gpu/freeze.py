"""Write a trained backbone as the file that ships: python -m recipes.gpu.freeze NAME TRAINED.safetensors --steps 602

TRAINED is what decoder.py wrote. The tensors stay as they are; the same tensors give the same bytes. The SHA-256 printed goes
into the SPEC and is written into the manifest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file

from priorcodec.core import shipped
from priorcodec.core.io import atomic, safetensors
from recipes.encoder2.release import LICENSE, pin


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("name")
    cli.add_argument("trained", type=Path)
    cli.add_argument("--steps", type=int, required=True)
    cli.add_argument("--out", type=Path, default=shipped.FOLDER)
    given = cli.parse_args()
    target = given.out / f"{given.name}.safetensors"
    metadata = {"license": LICENSE, "steps": str(given.steps)}
    atomic.write(target, safetensors.to_bytes(load_file(given.trained), metadata))
    print(pin(target))


if __name__ == "__main__":
    main()
