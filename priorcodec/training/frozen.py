"""The frozen backbone of adapter training, and fingerprints that prove that training did not change it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from priorcodec.backbones.spec import BackboneSpec
from priorcodec.config import Dtype
from priorcodec.core.errors import TrainingError

if TYPE_CHECKING:
    from priorcodec.registry import Registry


def build_frozen(
    spec: BackboneSpec, weights: Path | None, registry: Registry, *, dtype: Dtype, tiny: bool, device: torch.device
) -> Any:
    """The backbone on its device, without trainable parameters; tiny: its tiny random model.

    Raises:
        BackboneError: Its plugin could not build it.
    """
    built = registry.build(spec, weights, dtype=getattr(torch, dtype.on(device.type, spec)), tiny=tiny)
    backbone = built.to(device, **({"memory_format": torch.channels_last} if isinstance(built, nn.Module) else {}))
    for module in modules(backbone):
        module.requires_grad_(False).eval()
    return backbone


def modules(backbone: Any) -> Sequence[nn.Module]:
    """All modules of a backbone, which need not be a module itself."""
    if isinstance(backbone, nn.Module):
        return [backbone]
    return [value for _, value in sorted(vars(backbone).items()) if isinstance(value, nn.Module)]


def checkpoint_gradients(backbone: Any) -> bool:
    """Turn on gradient checkpointing where diffusers has it; False if the denoiser does not."""
    for module in (backbone.module, getattr(backbone, "vae", None)):
        enable = getattr(module, "enable_gradient_checkpointing", None)
        if enable is None or not getattr(module, "_supports_gradient_checkpointing", True):
            if module is backbone.module:
                return False
            continue
        enable()
    return True


def assert_unchanged(before: dict[str, str], after: dict[str, str]) -> None:
    """Raises TrainingError: a frozen part's fingerprint differs."""
    changed = [key for key in before if before[key] != after[key]]
    if changed:
        raise TrainingError(f"the {' and the '.join(changed)} changed while training: a bug, the result is not written")


def fingerprint(parts: Sequence[nn.Module]) -> str:
    """SHA-256 over names, shapes and bits of all parameters and buffers, the same with and without LoRA beside them."""
    digest = hashlib.sha256()
    for module in parts:
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        plain = {name.replace(".base_layer.", "."): tensors[name] for name in tensors if ".lora_" not in name}
        for name, tensor in sorted(plain.items()):
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(memoryview(value.flatten().view(torch.uint8).numpy()))  # pyright: ignore
    return digest.hexdigest()[:16]
