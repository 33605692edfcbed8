"""LoRA in and out of a denoiser (Hu et al. 2022), by peft's `inject_adapter_in_model`, which suits every denoiser."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from priorcodec.core.errors import AdapterError

NAME = "priorcodec"


def check_free(module: nn.Module) -> None:
    """Raises AdapterError when the module carries a LoRA already."""
    if _layers(module):
        raise AdapterError("the backbone carries an adapter already: eject that one first")


def inject(module: nn.Module, ranks: Mapping[str, int]) -> dict[str, nn.Parameter]:
    """Wrap the named modules; returns the new parameters by path. A fresh LoRA changes no output bit.

    Raises:
        AdapterError: the module carries a LoRA already.
    """
    from peft import LoraConfig, inject_adapter_in_model

    check_free(module)
    if not ranks:
        return {}
    config = LoraConfig(
        target_modules="|".join(re.escape(name) for name in ranks),
        r=next(iter(ranks.values())),
        rank_pattern={f"^{re.escape(name)}": rank for name, rank in ranks.items()},
        alpha_pattern={f"^{re.escape(name)}": rank for name, rank in ranks.items()},
    )
    frozen = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    inject_adapter_in_model(config, module, adapter_name=NAME)
    for name, parameter in module.named_parameters():
        if ".lora_" not in name:  # peft freezes the rest; the backbone's owner decides that
            parameter.requires_grad_(frozen[name.replace(".base_layer.", ".")])
    return {name: p for name, p in module.named_parameters() if ".lora_" in name}


def eject(module: nn.Module) -> None:
    """Undo `inject`: every wrapped module is the original object again."""
    for path, child in _layers(module):
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, child.get_base_layer())
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        if leftover in vars(module):
            delattr(module, leftover)


def merge(module: nn.Module) -> dict[str, Tensor]:
    """Add every LoRA to the weight it stands beside: the same function (up to rounding) at the cost of the plain model.

    Returns the weights as they were, on the CPU, for `unmerge`.
    """
    kept: dict[str, Tensor] = {}
    for path, layer in _layers(module):
        weight = cast(Tensor, layer.get_base_layer().weight)
        kept[path] = weight.detach().to("cpu", copy=True)
        layer.merge(adapter_names=[NAME])
    return kept


def unmerge(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Undo `merge` bit for bit: the kept weights are copied back, nothing is subtracted."""
    with torch.no_grad():
        for path, layer in _layers(module):
            cast(Tensor, layer.get_base_layer().weight).copy_(kept[path])
            layer.merged_adapters.clear()


def _layers(module: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(path, child) for path, child in module.named_modules() if isinstance(child, BaseTunerLayer)]


def load(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy stored values into freshly injected parameters. Raises AdapterError when names or shapes differ."""
    if set(parameters) != set(values):
        odd = sorted(set(parameters) ^ set(values))
        raise AdapterError(f"{len(odd)} LoRA tensors do not fit this backbone, the first is {odd[0]}: wrong adapter?")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != values[name].shape:
                got, wanted = tuple(values[name].shape), tuple(parameter.shape)
                raise AdapterError(f"LoRA tensor {name} is {got}, wanted {wanted}: wrong adapter?")
            parameter.copy_(values[name])
