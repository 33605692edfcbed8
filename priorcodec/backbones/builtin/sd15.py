"""Stable Diffusion 1.5 (Rombach et al. 2022): U-Net, noise prediction, 512 pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, Prediction, hookimpl
from priorcodec.backbones.builtin import _loading as loading
from priorcodec.backbones.builtin import _unet as unet

if TYPE_CHECKING:
    import torch

SCALE = 0.18215

MODEL = loading.Model(
    denoiser=unet.SD_BLOCKS | {"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768},
    autoencoder=loading.autoencoder(scale=SCALE, size=512),
    scheduler=unet.SCHEDULE,
    predict=unet.predict,
    identity=unet.IDENTITY,
)
TINY = loading.Model(
    denoiser={**MODEL.denoiser, **unet.TINY, "sample_size": 8},
    autoencoder=loading.tiny_autoencoder(SCALE),
    scheduler=unet.SCHEDULE,
    predict=unet.predict,
    identity=unet.IDENTITY,
)


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    return loading.load(SPEC, MODEL, weights, dtype=dtype)


def build_tiny() -> Any:
    return loading.load_tiny(SPEC, TINY)


SPEC = BackboneSpec(
    name="sd15",
    summary="Stable Diffusion 1.5, the best known U-Net, at 512 pixels",
    denoiser_subfolder="unet",
    license="CreativeML OpenRAIL-M",
    source="stable-diffusion-v1-5/stable-diffusion-v1-5",
    hub_revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    parameters=859_520_964,
    latent=loading.latent_space(SCALE),
    prediction=Prediction.NOISE,
    token_dim=768,
    size=512,
    lora=unet.SD_LORA,
    fusion=unet.SD_FUSION,
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC]
