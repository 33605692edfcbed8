"""PriorCodec, an image codec whose decoder is a pretrained diffusion model: the public names. Imports no torch."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

from priorcodec.core.contract import (
    API,
    AdapterSource,
    Backbone,
    BackboneSpec,
    FusionSite,
    LatentSpace,
    LoraRule,
    Prediction,
)
from priorcodec.core.errors import (
    AdapterError,
    BackboneError,
    ConfigError,
    ImageError,
    PriorCodecError,
    StreamError,
    TrainingError,
    WeightsError,
)
from priorcodec.registry.markers import hookimpl

__all__ = [
    "API",
    "AdapterError",
    "AdapterSource",
    "Backbone",
    "BackboneError",
    "BackboneSpec",
    "ConfigError",
    "FusionSite",
    "ImageError",
    "LatentSpace",
    "LoraRule",
    "Prediction",
    "PriorCodecError",
    "StreamError",
    "TrainingError",
    "WeightsError",
    "hookimpl",
]

_LAZY = {"open_registry": "priorcodec.registry", "open_session": "priorcodec.session"}  # loaded when first asked for


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return metadata.version("priorcodec")
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            return "0+unknown"
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'priorcodec' has no attribute {name!r}")
