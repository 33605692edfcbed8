"""LoRA in a denoiser (Hu et al. 2022): W + B A for chosen linear and convolution layers, at scale 1.

For training, peft wraps the layers. For inference, B A is added to the weights straight from the adapter's file, without peft:
the denoiser then costs what it did before.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from priorcodec.core.errors import AdapterError

NAME = "priorcodec"


def check_free(module: nn.Module) -> None:
    """Raises AdapterError when the module carries a LoRA already."""
    if _layers(module):
        raise AdapterError("the backbone carries an adapter already: eject that one first")


def inject(module: nn.Module, ranks: Mapping[str, int]) -> dict[str, nn.Parameter]:
    """Wrap the named modules for training. A fresh LoRA changes no output bit.

    Args:
        module: The denoiser.
        ranks: Module path -> rank.

    Returns:
        The new parameters by path.

    Raises:
        AdapterError: The module carries a LoRA already.
    """
    check_free(module)
    if not ranks:
        return {}
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise AdapterError(f"LoRA cannot be trained here ({error}): pip install 'priorcodec[train]'") from error
    frozen = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    inject_adapter_in_model(peft_config(ranks), module, adapter_name=NAME)
    for _, layer in _layers(module):
        base, down = layer.get_base_layer(), layer.lora_A[NAME]
        if isinstance(base, nn.Conv2d):  # peft takes over neither; merged into the weight, A has both
            down.padding_mode, down.dilation = base.padding_mode, base.dilation
    for name, parameter in module.named_parameters():
        if ".lora_" not in name:  # peft freezes the rest; the backbone's owner decides that
            parameter.requires_grad_(frozen[name.replace(".base_layer.", ".")])
    return {name: p for name, p in module.named_parameters() if ".lora_" in name}


def peft_config(ranks: Mapping[str, int]) -> Any:
    """peft's LoraConfig for `ranks` (module path -> rank): one pattern for every rank but the most common one.

    peft matches each module with each pattern, so that one pattern per module takes minutes for SDXL.
    """
    from peft import LoraConfig

    common = Counter(ranks.values()).most_common(1)[0][0]
    others: dict[int, list[str]] = {}
    for name, rank in ranks.items():
        if rank != common:
            others.setdefault(rank, []).append(name)
    patterns = {f"^(?:{_either(names)})": rank for rank, names in others.items()}
    return LoraConfig(
        target_modules=_either(ranks), r=common, lora_alpha=common, rank_pattern=patterns, alpha_pattern=dict(patterns)
    )


def eject(module: nn.Module) -> None:
    """Undo `inject`: every wrapped module is the original object again."""
    for path, child in _layers(module):
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, child.get_base_layer())
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        if leftover in vars(module):
            delattr(module, leftover)


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Weights that `merge` replaced.

    Attributes:
        originals: Module path -> the parameter that was there, None where it was not kept.
    """

    originals: dict[str, nn.Parameter | None]


def merge(module: nn.Module, ranks: Mapping[str, int], values: Mapping[str, Tensor], *, keep: bool = True) -> Merged:
    """Put W + B A in the place of every weight W that has a LoRA.

    Args:
        module: The denoiser.
        ranks: Module path -> rank.
        values: A and B of each path, named as peft names them: PATH.lora_A.priorcodec.weight.
        keep: Keep the weights that are replaced, for `unmerge`; it takes their memory a second time.

    Raises:
        AdapterError: The module carries a LoRA already, or names or shapes do not fit.
    """
    check_free(module)
    _check_names({f"{path}.lora_{half}.{NAME}.weight" for path in ranks for half in "AB"}, values)
    merged = {}
    for path, rank in ranks.items():
        layer: Any = module.get_submodule(path)
        down, up = (values[f"{path}.lora_{half}.{NAME}.weight"] for half in "AB")
        merged[path] = _sum(path, layer, down, up, rank)
    originals = {}
    for path, weight in merged.items():
        layer = module.get_submodule(path)
        originals[path] = layer.weight if keep else None
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    return Merged(originals=originals)


def unmerge(module: nn.Module, merged: Merged) -> None:
    """Undo `merge`: the very parameters that were replaced come back. Raises AdapterError: they were not kept."""
    if None in merged.originals.values():
        raise AdapterError("this adapter was merged without keeping the weights it replaced: build the backbone again")
    for path, original in merged.originals.items():
        layer: Any = module.get_submodule(path)
        assert original is not None  # for the type checker: refused above
        if original.device != layer.weight.device:
            original.data = original.data.to(layer.weight.device)
        layer.weight = original


@torch.no_grad()
def _sum(path: str, layer: Any, down: Tensor, up: Tensor, rank: int) -> Tensor:
    """W + B A like W; A (rank, in, ...), B (out, rank, ...)."""
    weight: Tensor = layer.weight
    window = weight.shape[2:]
    shapes = (rank, *weight.shape[1:]), (weight.shape[0], rank, *[1] * len(window))
    for value, shape in zip((down, up), shapes, strict=True):
        if tuple(value.shape) != tuple(shape):
            raise AdapterError(f"LoRA tensor of {path} is {tuple(value.shape)}, wanted {tuple(shape)}: wrong adapter?")
    down, up = (value.to(weight.device, torch.float32) for value in (down, up))
    product = (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    return torch.add(weight.float(), product).to(weight.dtype, memory_format=torch.preserve_format)


def _check_names(wanted: Iterable[str], values: Iterable[str]) -> None:
    odd = sorted(set(wanted) ^ set(values))
    if odd:
        raise AdapterError(f"{len(odd)} LoRA tensors do not fit this backbone, the first is {odd[0]}: wrong adapter?")


def load(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy stored values into freshly injected parameters. Raises AdapterError when names or shapes differ."""
    _check_names(parameters, values)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != values[name].shape:
                got, wanted = tuple(values[name].shape), tuple(parameter.shape)
                raise AdapterError(f"LoRA tensor {name} is {got}, wanted {wanted}: wrong adapter?")
            parameter.copy_(values[name])


def _either(names: Any) -> str:
    return "|".join(re.escape(name) for name in names)


def _layers(module: nn.Module) -> list[tuple[str, Any]]:
    """Layers that peft wrapped; none where nobody has imported peft."""
    if sys.modules.get("peft") is None:
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(path, child) for path, child in module.named_modules() if isinstance(child, BaseTunerLayer)]
