"""PriorCodec, an image codec whose decoder is a pretrained diffusion model: the public names, loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from priorcodec.adapters.adapter import Adapter as Adapter
    from priorcodec.backbones.spec import API as API
    from priorcodec.backbones.spec import AdapterSource as AdapterSource
    from priorcodec.backbones.spec import Backbone as Backbone
    from priorcodec.backbones.spec import BackboneSpec as BackboneSpec
    from priorcodec.backbones.spec import Condition as Condition
    from priorcodec.backbones.spec import FusionSite as FusionSite
    from priorcodec.backbones.spec import ImageInput as ImageInput
    from priorcodec.backbones.spec import LatentSpace as LatentSpace
    from priorcodec.backbones.spec import LoraRule as LoraRule
    from priorcodec.backbones.spec import Prediction as Prediction
    from priorcodec.core.errors import AdapterError as AdapterError
    from priorcodec.core.errors import BackboneError as BackboneError
    from priorcodec.core.errors import ConfigError as ConfigError
    from priorcodec.core.errors import ImageError as ImageError
    from priorcodec.core.errors import PriorCodecError as PriorCodecError
    from priorcodec.core.errors import StreamError as StreamError
    from priorcodec.core.errors import TrainingError as TrainingError
    from priorcodec.core.errors import WeightsError as WeightsError
    from priorcodec.registry import open_registry as open_registry
    from priorcodec.registry.hookspecs import hookimpl as hookimpl
    from priorcodec.session import EncodedImage as EncodedImage
    from priorcodec.session import Session as Session
    from priorcodec.session import list_backbones as list_backbones
    from priorcodec.session import open_session as open_session

    __version__: str

_MODULES = {  # module -> the public names it holds; importing any of these modules but the first loads no torch
    "priorcodec.adapters.adapter": "Adapter",
    "priorcodec.backbones.spec": (
        "API AdapterSource Backbone BackboneSpec Condition FusionSite ImageInput LatentSpace LoraRule Prediction"
    ),
    "priorcodec.core.errors": (
        "AdapterError BackboneError ConfigError ImageError PriorCodecError StreamError TrainingError WeightsError"
    ),
    "priorcodec.registry": "open_registry",
    "priorcodec.registry.hookspecs": "hookimpl",
    "priorcodec.session": "EncodedImage Session list_backbones open_session",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("priorcodec")
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            return "0+unknown"
    if name in _HOME:
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value
    raise AttributeError(f"module 'priorcodec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
