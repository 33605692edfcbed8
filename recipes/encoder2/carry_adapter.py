"""Move an adapter of the first encoder to another one, without training: its bridge reads the preview, which both encoders have.

python -m recipes.encoder2.carry_adapter ADAPTER.safetensors RESULT.safetensors [--encoder ENCODER.safetensors]

What read the old features is zero. Level s of this encoder has the trade-off of the old level s - `BELOW`, so everything that
reads the quality gets the old one: q / 11 becomes (q - BELOW) / 7, in the weights. A carried adapter suits every encoder with
these levels: carried again, it only gets another id. It is a start for training (`start=`), and works meanwhile. `release`
carries those of the package.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.file import AdapterFile
from priorcodec.core import shipped
from priorcodec.core.errors import AdapterError
from priorcodec.core.io import atomic, safetensors
from priorcodec.core.transforms import STRIDE
from priorcodec.core.weights import EncoderWeights, load_encoder

FIRST, OLD_LEVELS, BELOW = "0adcbeac", 8, 3  # id, levels of the first encoder; new levels under its level 0


def carried(
    file: AdapterFile, *, encoder: int, m: int, levels: int, stride: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the adapter for an encoder with `m` channels and `levels` qualities. stride: of the latent.

    Raises:
        AdapterError: Its tokens depend on the old features, or it was trained for a later encoder: it must be trained again.
    """
    identity = {"encoder": f"{encoder:08x}"}
    if "carried" in file.metadata:
        return dict(file.tensors), {**file.metadata, **identity}
    if file.config.mapper or file.metadata["encoder"] != FIRST:
        raise AdapterError(
            f"{file.path.name} is for encoder {file.metadata['encoder']} and reads its features: train it again"
        )
    slope, offset = (levels - 1) / (OLD_LEVELS - 1), -BELOW / (OLD_LEVELS - 1)
    tensors = {name: value.float() for name, value in file.tensors.items()}

    def reread(layer: str, planes: int) -> Tensor:
        """The part of a layer's weight that reads the quality, changed; what is constant in it goes into the bias."""
        weight = tensors[f"{layer}.weight"][:, -planes:]
        tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"] + offset * weight.sum((1, 2, 3))
        return slope * weight

    planes, y_branch = max(1, stride // STRIDE) ** 2, "own.bridge.y_branch.conv"
    quality = reread(y_branch, planes)
    tensors[f"{y_branch}.weight"] = torch.cat([quality.new_zeros(len(quality), m * planes, 1, 1), quality], 1)
    if "own.refiner.head.weight" in tensors:
        tensors["own.refiner.head.weight"] = tensors["own.refiner.head.weight"].clone()
        tensors["own.refiner.head.weight"][:, -1:] = reread("own.refiner.head", 1)
    low, high = file.config.start
    start = tuple(min(999.0, max(0.0, low + (high - low) * (offset + slope * q))) for q in (0.0, 1.0))
    config = dataclasses.replace(file.config, start=start)
    metadata = {
        **file.metadata,
        **identity,
        "config": json.dumps(dataclasses.asdict(config)),
        "carried": f"from encoder {file.metadata['encoder']}, without training",
    }
    return {name: value.half() for name, value in tensors.items()}, metadata


def carry(source: Path, target: Path, encoder: EncoderWeights) -> None:
    """Read, move and write one adapter. Raises AdapterError: see `carried`."""
    from priorcodec.registry import open_registry

    file, shape = adapter_file.read(source), encoder.transforms.config
    stride = open_registry().spec(file.metadata["backbone"]).latent.stride
    tensors, metadata = carried(file, encoder=encoder.id, m=shape.m, levels=shape.levels, stride=stride)
    atomic.write(target, safetensors.to_bytes(tensors, metadata))
    print(f"{target.name}: encoder {metadata['encoder']}, carried {metadata['carried']}")


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("adapter", type=Path)
    cli.add_argument("result", type=Path)
    cli.add_argument("--encoder", type=Path, default=shipped.FOLDER / "encoder.safetensors")
    given = cli.parse_args()
    carry(given.adapter, given.result, load_encoder(given.encoder))


if __name__ == "__main__":
    main()
