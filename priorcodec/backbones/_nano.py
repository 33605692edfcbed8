"""What our own small backbones share: loading, and an f8 latent autoencoder (diffusers' AutoencoderTiny) on 4x4-unshuffled
pictures. Working at strides 4 and 8 only is what makes it quick on two cores; the unshuffle is lossless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from priorcodec import BackboneSpec, WeightsError
from priorcodec.backbones._latent_diffusion import LatentDiffusion

PATCH = 4
AUTOENCODER_FILE = "nano_vae.safetensors"
AUTOENCODER: dict[str, Any] = {
    "in_channels": 3 * PATCH**2,
    "out_channels": 3 * PATCH**2,
    "encoder_block_out_channels": (128, 128),
    "decoder_block_out_channels": (128, 128),
    "num_encoder_blocks": (1, 3),
    "num_decoder_blocks": (5, 2),
    "latent_channels": 8,
}
TINY_AUTOENCODER: dict[str, Any] = AUTOENCODER | {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
}


def build_autoencoder(config: Mapping[str, Any] = AUTOENCODER) -> Any:
    """AutoencoderTiny: (b, 48, H/4, W/4) <-> (b, 8, H/8, W/8)."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(**config)


def encode(autoencoder: Any, x: Tensor) -> Tensor:
    """Pictures (b, 3, H, W) in [-1, 1] -> raw latents (b, 8, H/8, W/8)."""
    return autoencoder.encoder(pixel_unshuffle(x, PATCH))


def decode(autoencoder: Any, raw: Tensor) -> Tensor:
    """Raw latents -> pictures, not clamped."""
    return pixel_shuffle(autoencoder.decoder(raw), PATCH)


class NanoDiffusion(LatentDiffusion):
    """A small denoiser in that autoencoder's latent space."""

    def to_latents(self, x: Tensor) -> Tensor:
        return (encode(self.vae, x.to(self.vae.dtype)).to(x.dtype) - self.latent.shift) * self.latent.scale

    def to_pixels(self, z: Tensor) -> Tensor:
        raw = z / self.latent.scale + self.latent.shift
        return decode(self.vae, raw.to(self.vae.dtype)).to(z.dtype)


def load(
    spec: BackboneSpec,
    denoiser: nn.Module,
    predict: Callable[..., Tensor],
    weights: Path | None,
    *,
    dtype: torch.dtype,
    autoencoder: Mapping[str, Any] = AUTOENCODER,
) -> NanoDiffusion:
    """The backbone from a safetensors file with the autoencoder's beside it, or with fresh weights for `weights=None`.

    Raises:
        WeightsError: a file is missing, damaged, or not the one its partner was trained with.
    """
    from diffusers import DDPMScheduler
    from safetensors.torch import load as from_bytes
    from safetensors.torch import load_file

    vae = build_autoencoder(autoencoder)
    if weights is not None:
        try:
            data = (weights.parent / AUTOENCODER_FILE).read_bytes()
            wanted = _metadata(weights).get("autoencoder", "")
            if hashlib.sha256(data).hexdigest() != wanted:
                raise WeightsError(f"{spec.name}: {AUTOENCODER_FILE} beside {weights.name} is not the one it needs")
            denoiser.load_state_dict(load_file(weights))
            vae.load_state_dict(from_bytes(data))
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"{spec.name}: cannot load {weights} ({str(error).splitlines()[0]})") from error
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    denoiser, vae = nn.Module.to(denoiser, dtype=dtype), nn.Module.to(vae, dtype=dtype)
    return NanoDiffusion(denoiser, vae, scheduler.alphas_cumprod, spec.latent, predict)


def _metadata(weights: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        return dict(file.metadata() or {})
