"""Names in the first adapter files, and what they are called now: the only place that knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

METADATA = {"licence": "license", "grain": "noise"}
CONFIG = {
    "fine_width": "stem_width",
    "fine_depth": "stem_depth",
    "detail": "refiner",
    "detail_depth": "refiner_depth",
    "grain": "noise_channels",
    "statistics": "moments",
}
TENSORS = {  # prefix -> prefix, the first that fits
    "own.bridge.fine.": "own.bridge.stem.",
    "own.bridge.coarse.": "own.bridge.body.",
    "own.bridge.side.": "own.bridge.y_branch.",
    "own.detail.grain.": "own.refiner.noise.",
    "own.detail.": "own.refiner.",
    "own.statistics.": "own.moments.",
}
DEFAULTS = {"refiner": 0, "refiner_depth": 2, "noise_channels": 0}  # of files older than these settings


def rename_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata of a file under today's keys."""
    return {METADATA.get(key, key): value for key, value in metadata.items()}


def rename_config(fields: Any) -> dict[str, Any]:
    """Settings of a file under today's names, with what older files lack. Raises TypeError: not a mapping."""
    if not isinstance(fields, dict):
        raise TypeError(f"settings are a {type(fields).__name__}, wanted a mapping")
    renamed: dict[str, Any] = {CONFIG.get(str(key), str(key)): value for key, value in fields.items()}
    return {**DEFAULTS, **renamed}


def rename_tensors(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Tensors of a file under today's names."""
    return {_rename(name): value for name, value in tensors.items()}


def _rename(name: str) -> str:
    for old, new in TENSORS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
