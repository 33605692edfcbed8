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

from priorcodec.core.entropy.entropy_model import QUALITY_STEPS, SCALES, Prior
from priorcodec.core.entropy.frozen import ExactPrior, check_tables, gaussian_tables
from priorcodec.core.errors import WeightsError
from priorcodec.core.io import atomic, safetensors
from priorcodec.core.transforms import EncoderConfig, ImageEncoder, Transforms

Model = TypeVar("Model", bound=Transforms)
KIND = "priorcodec encoder 1"
LIMITS = {"levels": (2, 8), "depth": (0, 64)}  # of a config in a stranger's file; widths: 1 to 4096
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
    data = safetensors.to_bytes(tensors, header)
    atomic.write(path, data)
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
    metadata, tensors = safetensors.read(path, KIND, WeightsError, "reinstall priorcodec")
    tables = {key.removeprefix("prior."): tensors.pop(key) for key in list(tensors) if key.startswith("prior.")}
    try:
        config = EncoderConfig(**json.loads(metadata["config"]))
        _check(config, tensors, tables)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else safetensors.shown(error, 200)
        raise WeightsError(f"{path} is a damaged encoder ({reason}): reinstall priorcodec") from error
    return _File(id=encoder_id(path.read_bytes()), config=config, tensors=tensors, tables=tables, metadata=metadata)


def _check(config: EncoderConfig, tensors: dict[str, Tensor], tables: dict[str, Tensor]) -> None:
    """A stranger's weights: sizes before anything is allocated, then values; the entropy coder itself checks neither.

    Raises ValueError, KeyError.
    """
    for field in dataclasses.fields(config):
        value, (low, high) = getattr(config, field.name), LIMITS.get(field.name, (1, 4096))
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{field.name} is {value!r}, wanted {low} to {high}")
    with torch.device("meta"):
        transforms = Transforms(config).state_dict()
        prior = Prior(config.m, config.m_h, config.n, config.levels).state_dict()
    rows = (config.levels - 1) * QUALITY_STEPS + 1
    shapes = {name: value.shape for name, value in prior.items()}
    shapes |= {"quality_bias": (rows, config.n), "z_mean": (rows, config.m_h), "z_index": (rows, config.m_h)}
    shapes |= {"cdf": (SCALES, *tables["cdf"].shape[1:]), "cdf_length": (SCALES,), "cdf_offset": (SCALES,)}
    wanted = {name: (tensors[name], value.shape) for name, value in transforms.items()}
    wanted |= {name: (tables[name], shape) for name, shape in shapes.items()}
    for name, (value, shape) in wanted.items():
        if value.shape != tuple(shape):
            raise ValueError(f"{name} is {tuple(value.shape)}, wanted {tuple(shape)}")
        if value.is_floating_point() != (name in transforms) or not torch.isfinite(value).all():
            raise ValueError(f"{name} holds values of the wrong kind, or not finite")
    check_tables(tables)


def _filled(model: Model, file: _File) -> Model:
    try:
        model.load_state_dict({key: value.float() for key, value in file.tensors.items()})
    except RuntimeError as error:
        raise WeightsError(
            f"the encoder file does not fit its own config: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.requires_grad_(False).eval()
