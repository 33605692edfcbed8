"""Averaged weights of a checkpoint as one safetensors file: export.py CHECKPOINT TABLES TARGET.

fp16 for g_a, h_a, g_s, g_p; float32 for gains; the entropy model as integers (`EntropyModel2.tables`) with the fitted tables.
Trainable entropy weights are not in it: the integers are them, on their grid. Metadata: config, steps, minutes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.encoder2.evaluate import load


def main() -> None:
    checkpoint, tables, target = map(Path, sys.argv[1:4])
    model, saved = load(checkpoint)
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not name.startswith("entropy."):
            tensors[name] = value.contiguous().to(torch.float32 if name.startswith("log_") else torch.float16)
    tensors |= {f"entropy.{k}": torch.from_numpy(v).contiguous() for k, v in model.entropy.tables().items()}
    tensors |= {f"entropy.{k}": v for k, v in load_file(tables).items() if not k.endswith("counts")}
    note = {
        "config": json.dumps(asdict(model.config)),
        "steps": str(saved.get("step")),
        "minutes": f"{saved.get('minutes', 0):.1f}",
    }
    save_file(tensors, target, {"kind": "priorcodec encoder 2, unreleased", **note})
    print(target, f"{target.stat().st_size / 2**20:.1f} MiB", note)


if __name__ == "__main__":
    main()
