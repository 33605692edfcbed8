"""The four files of a GPU run as one checkpoint: unpack.py FOLDER TARGET.pt [G_P.safetensors].

G_P: what finish.py made of the perceptual decoder afterwards; it takes the place of the folder's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def main() -> None:
    folder, target, *finished = map(Path, sys.argv[1:])
    state = {}
    for name in ("transforms", "entropy", "g_s", "g_p"):
        state |= load_file(folder / f"{name}.safetensors")
    for path in finished:
        state |= {f"g_p.{name}": value for name, value in load_file(path).items()}
    state = {name: value.float() for name, value in state.items()}
    torch.save({"average": state, "model": state}, target)


if __name__ == "__main__":
    main()
