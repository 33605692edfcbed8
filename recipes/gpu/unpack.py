"""The four files of a GPU run as one state dict: unpack.py FOLDER TARGET.pt."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def main() -> None:
    folder, target = map(Path, sys.argv[1:3])
    state = {}
    for name in ("transforms", "entropy", "g_s", "g_p"):
        state |= {k: v.float() for k, v in load_file(folder / f"{name}.safetensors").items()}
    torch.save({"average": state, "model": state}, target)


if __name__ == "__main__":
    main()
