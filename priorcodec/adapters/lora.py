"""LoRA in and out of a denoiser (Hu et al. 2022), through peft's `inject_adapter_in_model`, which suits every denoiser."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from priorcodec.core.errors import AdapterError

NAME = "priorcodec"


def inject(module: nn.Module, ranks: Mapping[str, int]) -> dict[str, nn.Parameter]:
    """Wrap the named modules; returns the new parameters by path. A fresh LoRA changes no output bit.

    Raises:
        AdapterError: the module carries a LoRA already.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(child, BaseTunerLayer) for child in module.modules()):
        raise AdapterError("the backbone carries an adapter already: eject that one first")
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
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, child in list(module.named_modules()):
        if isinstance(child, BaseTunerLayer):
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, child.get_base_layer())
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        if leftover in vars(module):
            delattr(module, leftover)


def load(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy stored values into freshly injected parameters. Raises AdapterError when names or shapes differ."""
    if set(parameters) != set(values):
        odd = sorted(set(parameters) ^ set(values))
        raise AdapterError(f"{len(odd)} LoRA tensors do not fit this backbone, the first is {odd[0]}: wrong adapter?")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != values[name].shape:
                raise AdapterError(
                    f"LoRA tensor {name} is {tuple(values[name].shape)}, wanted {tuple(parameter.shape)}: wrong adapter?"
                )
            parameter.copy_(values[name])
