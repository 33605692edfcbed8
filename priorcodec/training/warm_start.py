"""Starts an adapter from another adapter's file."""

from __future__ import annotations

import torch

from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.file import AdapterFile
from priorcodec.core.errors import AdapterError
from priorcodec.core.io import safetensors

# Parts of an adapter, by the start of their tensors' names, whose meaning depends on the denoiser, on its latent space and on the
# encoder's channels.
BACKBONE_SPECIFIC = (
    "fusion.", "tokens.base", "tokens.more_base.", "tokens.pooled_base", "tokens.out.", "tokens.more_out.",
    "tokens.pooled_out.", "condition_features.",
)  # fmt: skip
LATENT_SPECIFIC = ("bridge.tail.", "moments.")
ENCODER_SPECIFIC = ("bridge.y_branch.", "tokens.key_value.")


@torch.no_grad()
def warm_start(adapter: Adapter, file: AdapterFile, *, same_latent: bool, encoder: int) -> str:
    """Copy the tensors of another adapter's file that have the same name, shape and meaning here.

    For the same backbone that is everything; for another one the bridge, refiner, pyramid and token mapper.

    Args:
        adapter: attached to its backbone.
        file: the other adapter.
        same_latent: whether both backbones share one latent space; then the output layers are copied too.
        encoder: id of the encoder.

    Returns:
        One line that says how many tensors were copied.

    Raises:
        AdapterError: none can be copied, or a value is not finite.
    """
    same = (file.metadata.get("backbone"), file.metadata.get("revision")) == (adapter.spec.name, adapter.spec.revision)
    fresh = (() if same else BACKBONE_SPECIFIC) + (() if same or same_latent else LATENT_SPECIFIC)
    fresh += () if file.metadata.get("encoder") == f"{encoder:08x}" else ENCODER_SPECIFIC
    own = {f"own.{name}": value for name, value in adapter.state_dict(keep_vars=True).items()}
    all_of_it = own | {f"lora.{name}": value for name, value in adapter.lora.items()}
    taken = 0
    for key, value in all_of_it.items():
        part, _, name = key.partition(".")
        wanted = same if part == "lora" else not name.startswith(fresh)
        if wanted and key in file.tensors and file.tensors[key].shape == value.shape:
            if not safetensors.is_finite(file.tensors[key]):
                raise AdapterError(f"{file.path}: {key} holds values that are not finite: give another start=")
            value.copy_(file.tensors[key])
            taken += 1
    if not taken:
        raise AdapterError(f"{file.path} shares no tensor with this adapter: give one of the same sizes, or no start=")
    return f"copied {taken} of {len(all_of_it)} tensors from {file.path.name} (for {file.metadata.get('backbone')})"
