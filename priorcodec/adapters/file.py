"""An adapter's file: one safetensors with everything trained and everything needed to refuse the wrong backbone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from priorcodec.adapters import lora
from priorcodec.adapters.config import AdapterConfig
from priorcodec.adapters.rules import digest
from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core.errors import AdapterError
from priorcodec.core.io import atomic, safetensors
from priorcodec.core.io.names import printable

if TYPE_CHECKING:
    from priorcodec.adapters.adapter import Adapter

KIND = "priorcodec adapter 2"
FORMER = "statistics"
"""What the shipped adapters of the nano backbones call `moments`."""


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """A file as it was read. tensors: "own." before the adapter's own names, "lora." before LoRA paths; metadata: see `save`."""

    path: Path
    config: AdapterConfig
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def tiny(self) -> bool:
        """Whether it is of a dry run."""
        return is_tiny(self.metadata)


def is_tiny(metadata: Mapping[str, str]) -> bool:
    """Whether an adapter file with this metadata is of a dry run, for the backbone's tiny random model."""
    return metadata.get("tiny") == "true"


def save(adapter: Adapter, path: Path, *, encoder_id: int, metadata: Mapping[str, str], dtype=torch.float16) -> None:
    """Write a trained (and still attached) adapter.

    Args:
        adapter: The adapter.
        path: Where to.
        encoder_id: The encoder it was trained with.
        metadata: Trained steps, data, license, package version.
        dtype: Of the stored values.

    Raises:
        AdapterError: A value is not finite, or not finite in this dtype.
    """
    spec = adapter.spec
    header = {
        **metadata,
        "kind": KIND,
        "backbone": spec.name,
        "revision": spec.revision,
        "source": spec.source,
        "backbone_parameters": str(spec.parameters),
        "encoder": f"{encoder_id:08x}",
        "rules": digest(spec.lora),
        "config": json.dumps(dataclasses.asdict(adapter.config)),
    }
    tensors = {f"own.{name}": value for name, value in adapter.state_dict().items()}
    tensors |= {f"lora.{name}": value for name, value in (adapter.lora or adapter.lora_values).items()}
    tensors = {name: value.detach().cpu().to(dtype) for name, value in tensors.items()}
    for name, value in tensors.items():
        if not safetensors.is_finite(value):
            raise AdapterError(f"{name} is not finite as {dtype}: the training diverged, lower its learning rate")
    atomic.write(path, safetensors.to_bytes(tensors, header))


def read(path: Path) -> AdapterFile:
    """Read an adapter's file. Raises AdapterError: missing, unreadable, or not an adapter."""
    metadata, tensors = safetensors.read(path, KIND, AdapterError, "give a .safetensors adapter file")
    tensors = {name.replace(f"own.{FORMER}.", "own.moments."): value for name, value in tensors.items()}
    try:
        stored = json.loads(metadata["config"])
        if not isinstance(stored, dict):
            raise TypeError(f"settings are a {type(stored).__name__}, wanted a mapping")
        fields = {"moments" if key == FORMER else key: value for key, value in stored.items()}
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(AdapterConfig)})
        if unknown:
            names = printable(", ".join(unknown), 60)
            raise AdapterError(f"{path} has settings this version does not know ({names}): update priorcodec")
        config = AdapterConfig(**{**fields, "start": tuple(fields["start"])})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = printable(error, 200)
        raise AdapterError(f"{path} has a damaged description ({reason}): get the adapter again") from error
    return AdapterFile(path=path, config=config, tensors=tensors, metadata=metadata)


def check(file: AdapterFile, spec: BackboneSpec, *, encoder_id: int) -> None:
    """Raises AdapterError when the adapter belongs to another backbone, revision, rule set or encoder."""
    wanted = {
        "backbone": spec.name,
        "revision": spec.revision,
        "encoder": f"{encoder_id:08x}",
        "rules": digest(spec.lora),
    }
    for key, value in wanted.items():
        if file.metadata.get(key) != value:
            raise AdapterError(
                f"{file.path.name} is for {key} {printable(file.metadata.get(key), 80)}, this is {value}: take or "
                f"train an adapter for {spec.name}"
            )


def check_shapes(file: AdapterFile, adapter: Adapter) -> None:
    """Compare the tensors with those of an adapter made from the file's config on the meta device, where it takes no memory.

    Raises:
        AdapterError: They differ: a small file must not describe a huge adapter.
    """
    wanted = {f"own.{name}": value.shape for name, value in adapter.state_dict().items()}
    for name, shape in wanted.items():
        value = file.tensors.get(name)
        if value is None or value.shape != shape:
            got = "missing" if value is None else tuple(value.shape)
            raise AdapterError(f"{file.path.name} does not fit: {name} is {got}, wanted {tuple(shape)}")
    rank = file.config.lora_rank
    layers = 0 if rank == 0 else sum(rule.modules for rule in adapter.counted.lora)
    found = {name: value.shape for name, value in file.tensors.items() if name.startswith("lora.")}
    if len(found) != 2 * layers:
        raise AdapterError(f"{file.path.name} has {len(found)} LoRA tensors, wanted {2 * layers}: wrong adapter?")
    for name, shape in found.items():
        if rank and "lora_A" in name and shape[:1] != (rank,):
            raise AdapterError(f"{file.path.name}: {printable(name, 80)} is {tuple(shape)}, wanted rank {rank}")


def load(file: AdapterFile, adapter: Adapter) -> None:
    """Give an adapter of the same config the stored tensors, in float32; its own ones may be on the meta device.

    LoRA goes into the layers of an injected adapter, and into `lora_values` of one that is not attached yet.

    Raises:
        AdapterError: They do not fit.
    """
    parts: dict[str, dict[str, Tensor]] = {"own": {}, "lora": {}}
    for key, value in file.tensors.items():
        said = printable(key, 80)
        part, _, name = key.partition(".")
        if part not in parts:
            raise AdapterError(f"{file.path.name} holds {said}, which this version does not know: update priorcodec")
        if not safetensors.is_finite(value):
            raise AdapterError(f"{file.path.name}: {said} holds values that are not finite: get the adapter again")
        parts[part][name] = value.float()
    empty = any(parameter.is_meta for parameter in adapter.parameters())
    try:
        adapter.load_state_dict(parts["own"], assign=empty)
    except RuntimeError as error:
        raise AdapterError(f"{file.path.name} does not fit: {str(error).splitlines()[-1].strip()}") from error
    adapter.metadata = file.metadata
    if adapter.backbone is None:
        adapter.lora_values = parts["lora"]
    else:
        lora.load(adapter.lora, parts["lora"])
