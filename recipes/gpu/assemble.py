"""Make an adapter's file from its trained state: python -m recipes.gpu.assemble NAME STATE.safetensors [--out priorcodec/weights]

STATE is what decoder.py and finish.py write: the names of `Adapter.state_dict()`, and "lora." before LoRA paths. The result,
OUT/NAME.adapter.safetensors, is bound to the shipped encoder and to the backbone as its SPEC states it, and gets its line in
OUT's manifest (and WEIGHTS.md its hash). The same state gives the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from priorcodec.adapters import file as adapter_file
from priorcodec.adapters import hub
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core import shipped
from priorcodec.core.errors import AdapterError
from priorcodec.core.transforms import EncoderConfig
from priorcodec.core.weights import load_encoder
from priorcodec.registry import open_registry
from recipes.encoder2.release import LICENSE, describe, pin
from recipes.gpu.decoder import SIZES


def assemble(
    spec: BackboneSpec, config: AdapterConfig, state: Path, target: Path, *, encoder: int, shape: EncoderConfig
) -> None:
    """Write the adapter, after reading it back as a decoder does.

    Args:
        spec: The backbone.
        config: Sizes that the state was trained with.
        state: safetensors; its metadata ("steps") goes into the result.
        target: The adapter's file.
        encoder: Id of the encoder that the adapter was trained with.
        shape: That encoder's sizes.

    Raises:
        AdapterError: The state does not fit; nothing is written.
    """
    with safe_open(state, framework="pt") as opened:
        metadata = dict(opened.metadata() or {})
    tensors = {name: value.float() for name, value in load_file(state).items()}
    own = {name: value for name, value in tensors.items() if not name.startswith("lora.")}
    adapter = Adapter(spec, config, m=shape.m, levels=shape.levels)
    try:
        adapter.load_state_dict(own)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise AdapterError(f"{state.name} is no state of {spec.name}'s adapter ({reason})") from error
    adapter.lora_values = {name.removeprefix("lora."): tensors[name] for name in tensors.keys() - own.keys()}
    part = target.with_name(f"{target.name}.part")
    try:
        adapter_file.save(adapter, part, encoder_id=encoder, metadata={"license": LICENSE, **metadata})
        read = Adapter.open(part, spec, encoder_id=encoder, m=shape.m, levels=shape.levels)
        with torch.device("meta"):
            backbone = spec.build(None, dtype=torch.float32)
        read.merge(backbone)  # the LoRA fits the denoiser
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("name", choices=tuple(SIZES))
    cli.add_argument("state", type=Path)
    cli.add_argument("--out", type=Path, default=shipped.FOLDER)
    given = cli.parse_args()
    weights, spec = load_encoder(shipped.ENCODER), open_registry().spec(given.name)
    target = given.out / hub.file_name(spec.name)
    shape = weights.transforms.config
    assemble(spec, SIZES[given.name], given.state, target, encoder=weights.id, shape=shape)
    print(f"{target.name}: encoder {weights.id:08x}, {pin(target)}")
    if given.out == shipped.FOLDER:
        describe(weights.id)


if __name__ == "__main__":
    main()
