"""The shipped weights as the files that a run starts from: python -m recipes.gpu.resume FOLDER

FOLDER/encoder.pt                       for pack.py, finish.py and recipes/encoder2
FOLDER/NAME.safetensors, NAME.adapter-state.safetensors    of nano_pixel and nano_dit, for the folder that pack.py writes
Nothing else of an earlier run is needed. What shipping rounded (fp16, integers, float8 of nano_dit) stays rounded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from priorcodec.adapters.adapter import Adapter
from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core import shipped
from priorcodec.core.exact_reader import encoder_id
from priorcodec.core.transforms import ImageEncoder
from priorcodec.core.weights import load_simulation
from priorcodec.registry import open_registry
from recipes.gpu.decoder import SIZES


def state(adapter: Adapter) -> dict[str, torch.Tensor]:
    """An adapter out of a file -> the state that `assemble` takes."""
    named = {name: value.half().contiguous() for name, value in adapter.state_dict().items()}
    return named | {f"lora.{name}": value.half().contiguous() for name, value in adapter.lora_values.items()}


def open_adapter(spec: BackboneSpec, encoder: ImageEncoder) -> Adapter:
    """The shipped adapter of a backbone."""
    path, shape = open_registry().adapter(spec, "default"), encoder.config
    return Adapter.open(path, spec, encoder_id=encoder_id(shipped.ENCODER.read_bytes()), m=shape.m, levels=shape.levels)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    encoder = load_simulation(shipped.ENCODER)
    torch.save({"average": encoder.state_dict(), "model": encoder.state_dict()}, folder / "encoder.pt")
    for name in SIZES:
        weights = load_file(shipped.FOLDER / f"{name}.safetensors")
        save_file({k: v.half().contiguous() for k, v in weights.items()}, folder / f"{name}.safetensors")
        save_file(
            state(open_adapter(open_registry().spec(name), encoder)), folder / f"{name}.adapter-state.safetensors"
        )
    for file in sorted(folder.iterdir()):
        print(f"{file.name} {file.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
