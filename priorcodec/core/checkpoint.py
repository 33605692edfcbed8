"""The encoder's weight file: float transforms, integer entropy tables, and the id every .gic file carries."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from priorcodec.core import files, tensorfile
from priorcodec.core.encoder import EncoderConfig, ImageEncoder, Transforms
from priorcodec.core.entropy import ExactPrior, gaussian_tables
from priorcodec.core.errors import WeightsError

Model = TypeVar("Model", bound=Transforms)
KIND = "priorcodec encoder 1"
FULL_PRECISION = ("log_gain", "log_inverse", "log_hyper_gain")


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """A loaded encoder. id: first 32 bits of the file's SHA-256; metadata: what the file says of its making."""

    id: int
    transforms: Transforms
    prior: ExactPrior
    metadata: dict[str, str]


def save_encoder(model: ImageEncoder, path: Path, metadata: Mapping[str, str]) -> int:
    """Freeze a trained encoder into one safetensors file (fp16 transforms, integer tables); returns its id."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not name.startswith("prior."):
            tensors[name] = value.detach().cpu().to(torch.float32 if name in FULL_PRECISION else torch.float16)
    tensors |= {f"prior.{key}": value for key, value in (model.prior.tables() | gaussian_tables()).items()}
    header = {"kind": KIND, "config": json.dumps(dataclasses.asdict(model.config)), **metadata}
    data = tensorfile.to_bytes(tensors, header)
    files.write(path, data)
    return encoder_id(data)


def encoder_id(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "little")


def load_encoder(path: Path, device: torch.device | str = "cpu") -> EncoderWeights:
    """For coding. Raises WeightsError: no such file, not an encoder, or tensors of the wrong shape."""
    file = _read(path)
    transforms = _filled(Transforms(file.config), file)
    return EncoderWeights(
        id=file.id,
        transforms=transforms.to(device, memory_format=torch.channels_last),  # pyright: ignore
        prior=ExactPrior(file.tables, device),
        metadata=file.metadata,
    )


def load_simulation(path: Path) -> ImageEncoder:
    """The same frozen encoder as one module that models coding in floating point: what adapters are trained against."""
    file = _read(path)
    model = ImageEncoder(file.config)
    model.prior.load_tables(file.tables)
    file.tensors.update({key: value for key, value in model.state_dict().items() if key.startswith("prior.")})
    return _filled(model, file)


@dataclass(frozen=True, kw_only=True)
class _File:
    id: int
    config: EncoderConfig
    tensors: dict[str, Tensor]
    tables: dict[str, Tensor]
    metadata: dict[str, str]


def _read(path: Path) -> _File:
    metadata, tensors = tensorfile.read(path, KIND, WeightsError, "reinstall priorcodec")
    tables = {key.removeprefix("prior."): tensors.pop(key) for key in list(tensors) if key.startswith("prior.")}
    config = EncoderConfig(**json.loads(metadata["config"]))
    return _File(id=encoder_id(path.read_bytes()), config=config, tensors=tensors, tables=tables, metadata=metadata)


def _filled(model: Model, file: _File) -> Model:
    try:
        model.load_state_dict({key: value.float() for key, value in file.tensors.items()})
    except RuntimeError as error:
        raise WeightsError(
            f"the encoder file does not fit its own config: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.requires_grad_(False).eval()
