"""The encoder's weight file: float transforms, integer entropy tables, and the id every .gic file carries."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from priorcodec.core import shipped
from priorcodec.core.entropy.frozen import FrozenEntropyModel
from priorcodec.core.entropy.tables import Tables, check_tables, gaussian_tables
from priorcodec.core.errors import WeightsError
from priorcodec.core.exact_reader import MOST_GROUPS, TABLES, encoder_id, sizes
from priorcodec.core.io import atomic, safetensors
from priorcodec.core.io.names import printable
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.transforms import EncoderConfig, ImageEncoder, Transforms

Model = TypeVar("Model", bound=Transforms)
KIND = "priorcodec encoder 2"
LIMITS = {"levels": (2, 12), "depth8": (0, 64), "depth16": (0, 64), "certain": (0, 64)}
"""Smallest and largest value of an encoder's sizes; the other ones are widths, 1 to 4096."""
FULL_PRECISION = ("log_gain", "log_inverse", "log_hyper_gain")


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """A loaded encoder.

    Attributes:
        id: First 32 bits of the file's SHA-256.
        transforms: The transforms, on the requested device.
        entropy_model: The entropy model, always on the CPU.
        metadata: Metadata of the file.
        schedule: The lambdas that it was trained with.
    """

    id: int
    transforms: Transforms
    entropy_model: FrozenEntropyModel
    metadata: dict[str, str]
    schedule: LambdaSchedule


def save_encoder(
    model: ImageEncoder, path: Path, metadata: Mapping[str, str], *, frequencies: Tables | None = None
) -> int:
    """Freeze a trained encoder into one safetensors file: half-precision transforms, float32 gains, integer tables.

    Args:
        model: The encoder; it is not changed.
        path: Where it is written.
        metadata: Added to the file's.
        frequencies: Tables of both alphabets, as `tables.table_set` gives them; by default Gaussian.

    Returns:
        The encoder's id.

    Raises:
        WeightsError: A value does not fit its type; nothing is written.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not name.startswith(TABLES):  # of the trained entropy model, only the integers are kept
            tensors[name] = value.detach().cpu().to(torch.float32 if name in FULL_PRECISION else torch.float16)
            if not bool(tensors[name].isfinite().all()):
                raise WeightsError(
                    f"{name} is not finite in half precision: the training diverged, freeze an earlier checkpoint"
                )
    tables = model.entropy.tables() | dict(gaussian_tables() if frequencies is None else frequencies)
    tensors |= {f"{TABLES}{key}": torch.from_numpy(value) for key, value in tables.items()}
    header = {"kind": KIND, "config": json.dumps(dataclasses.asdict(model.config)), **metadata}
    data = safetensors.to_bytes(tensors, header)
    atomic.write(path, data)
    return encoder_id(data)


def load_encoder(path: Path, device: torch.device | str = "cpu") -> EncoderWeights:
    """For coding. Raises WeightsError: no such file, not an encoder, or tensors of the wrong shape."""
    file = _read(path)
    with torch.device("meta"):  # no random numbers of the process are used
        transforms = Transforms(file.config)
    transforms = _filled(transforms, file)
    return EncoderWeights(
        id=file.id,
        transforms=transforms.to(device, memory_format=torch.channels_last),  # pyright: ignore
        entropy_model=FrozenEntropyModel(file.tables, file.config.certain),
        metadata=file.metadata,
        schedule=file.schedule,
    )


def load_simulation(path: Path) -> ImageEncoder:
    """The same frozen encoder as one module that models coding in floating point: what adapters are trained against."""
    file = _read(path)
    model = ImageEncoder(file.config)
    model.entropy.load_tables(file.tables)
    file.tensors.update({key: value for key, value in model.state_dict().items() if key.startswith(TABLES)})
    return _filled(model, file)


@dataclass(frozen=True, kw_only=True)
class _File:
    id: int
    config: EncoderConfig
    tensors: dict[str, Tensor]
    tables: Tables
    metadata: dict[str, str]
    schedule: LambdaSchedule


def _read(path: Path) -> _File:
    remedy = "reinstall priorcodec" if path.parent == shipped.FOLDER else "give the path of an encoder's weight file"
    metadata, tensors = safetensors.read(path, KIND, WeightsError, remedy)
    data = path.read_bytes()
    shipped.verify(path, data)
    names = [key for key in tensors if key.startswith(TABLES)]
    try:
        tables = {key.removeprefix(TABLES): tensors.pop(key).numpy() for key in names}
        config = _config(json.loads(metadata["config"]))
        _check(config, tensors, tables)
        schedule = LambdaSchedule(**json.loads(metadata.get("lambdas", "{}")), levels=config.levels)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else printable(error, 200)
        raise WeightsError(f"{path} is a damaged encoder ({reason}): {remedy}") from error
    return _File(
        id=encoder_id(data), config=config, tensors=tensors, tables=tables, metadata=metadata, schedule=schedule
    )


def _config(fields: dict[str, Any]) -> EncoderConfig:
    """Sizes of unknown origin, before anything is allocated. Raises ValueError, KeyError, TypeError."""
    config = EncoderConfig(**{**fields, "groups": tuple(fields["groups"])})
    if found := problems(config):
        raise ValueError("; ".join(found))
    return config


def problems(config: EncoderConfig) -> list[str]:
    """What no encoder can have, one phrase per wrong size: `depth8=65: wanted 0 to 64`."""
    found = []
    for name, value in vars(config).items():
        low, high = LIMITS.get(name, (1, 4096))
        for number in value if name == "groups" else [value]:
            if type(number) is not int or not low <= number <= high:
                found.append(f"{name}={value!r}: wanted {low} to {high}")
                break
    if not found and sum(config.groups) != config.m:
        found.append(f"groups={config.groups}: wanted numbers that add up to m={config.m}")
    if not 1 <= len(config.groups) <= MOST_GROUPS:
        found.append(f"groups={config.groups}: wanted 1 to {MOST_GROUPS} numbers")
    return found


def _check(config: EncoderConfig, tensors: dict[str, Tensor], tables: Tables) -> None:
    """Values of unknown origin; the entropy coder itself checks none. Raises ValueError, KeyError."""
    with torch.device("meta"):
        transforms = Transforms(config).state_dict()
    for name, wanted in transforms.items():
        value = tensors[name]
        if value.shape != wanted.shape:
            raise ValueError(f"{name} is {tuple(value.shape)}, wanted {tuple(wanted.shape)}")
        if not value.is_floating_point() or not safetensors.is_finite(value):
            raise ValueError(f"{name} holds values of the wrong kind, or not finite")
    check_tables(tables, sizes(vars(config)))


def _filled(model: Model, file: _File) -> Model:
    try:
        model.load_state_dict({key: value.float() for key, value in file.tensors.items()}, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the encoder file does not fit its own config: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.requires_grad_(False).eval()
