"""Where an adapter starts: from the backbone's own encoder, or from another adapter's file."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.bridge import LatentBridge
from priorcodec.adapters.file import AdapterFile
from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core.errors import AdapterError


@torch.no_grad()
def start_as_encoder(bridge: LatentBridge, backbone: Any, spec: BackboneSpec) -> bool:
    """Initialize the bridge with the encoder of the backbone's autoencoder if both have the same layers.

    Our nano backbones have: unshuffle, conv, blocks, unshuffle, conv, blocks, conv. The bridge then starts as that encoder,
    applied to the preview.

    Returns:
        Whether it was done.
    """
    layers = getattr(getattr(backbone, "vae", None), "encoder", None)
    if not isinstance(layers, nn.Sequential):
        return False
    mine = [bridge.head[1], *bridge.fine, bridge.down[1], *bridge.coarse, bridge.tail]
    theirs = [layer for layer in layers if any(True for _ in layer.parameters())]
    shapes = [[{name: v.shape for name, v in layer.state_dict().items()} for layer in side] for side in (mine, theirs)]
    if shapes[0] != shapes[1]:
        return False
    for own, layer in zip(mine, theirs, strict=True):
        own.load_state_dict(layer.state_dict())
    std, mean, latent = bridge.std.flatten(), bridge.mean.flatten(), spec.latent  # pyright: ignore
    bridge.tail.weight.mul_((latent.scale / std)[:, None, None, None])
    bridge.tail.bias.sub_(latent.shift).mul_(latent.scale).sub_(mean).div_(std)  # pyright: ignore
    return True


# Parts of an adapter, by the start of their tensors' names, whose meaning depends on
BACKBONE_SPECIFIC = (
    "fusion.",
    "tokens.base",
    "tokens.pooled_base",
    "tokens.out.",
    "tokens.pooled_out.",
)  # the denoiser,
LATENT_SPECIFIC = ("bridge.tail.", "statistics.")  # its latent space,
ENCODER_SPECIFIC = ("bridge.side.", "tokens.key_value.")  # and the encoder's channels.


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
        AdapterError: none can be copied.
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
            value.copy_(file.tensors[key])
            taken += 1
    if not taken:
        raise AdapterError(f"{file.path} shares no tensor with this adapter: give one of the same sizes, or no start=")
    return f"copied {taken} of {len(all_of_it)} tensors from {file.path.name} (for {file.metadata.get('backbone')})"
