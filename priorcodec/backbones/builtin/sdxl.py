"""Stable Diffusion XL (Podell et al. 2023): a U-Net three times as large; its size conditions are made inside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, FusionSite, Prediction, hookimpl
from priorcodec.backbones.builtin import _loading as loading
from priorcodec.backbones.builtin import _unet as unet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALE = 0.13025
SIZE = 1024
POOLED = 1280
# Original height and width, crop offset, target height and width: always "a whole, large image", so that neither the
# image's size nor a tile's position changes what the model believes about its quality.
TIME_IDS = (SIZE, SIZE, 0, 0, SIZE, SIZE)


def predict(model: Any, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
    """Without a pooled vector, zeros, which SDXL was trained on for empty prompts."""
    batch = len(x_t)
    extra = {
        "text_embeds": x_t.new_zeros(batch, POOLED) if pooled is None else pooled,
        "time_ids": x_t.new_tensor([TIME_IDS]).expand(batch, -1),
    }
    return model(x_t, t, encoder_hidden_states=tokens, added_cond_kwargs=extra, return_dict=False)[0]


MODEL = loading.Model(
    denoiser={
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": POOLED + 6 * 256,
    },
    autoencoder=loading.autoencoder(scale=SCALE, size=SIZE, force_upcast=True),
    scheduler=unet.SCHEDULE,
    predict=predict,
    identity=unet.IDENTITY,
    fp16_autoencoder=False,
)
TINY = replace(
    MODEL,
    denoiser={
        **MODEL.denoiser,
        **unet.TINY,
        "sample_size": 16,
        "block_out_channels": (16, 32, 32),
        "transformer_layers_per_block": (1, 1, 2),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": POOLED + 6 * 8,
    },
    autoencoder=loading.tiny_autoencoder(SCALE),
)


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    return loading.load(SPEC, MODEL, weights, dtype=dtype)


def build_tiny() -> Any:
    return loading.load_tiny(SPEC, TINY)


SPEC = BackboneSpec(
    name="sdxl",
    summary="Stable Diffusion XL base 1.0, the large U-Net, at 1024 pixels",
    denoiser_subfolder="unet",
    license="CreativeML OpenRAIL++-M",
    source="stabilityai/stable-diffusion-xl-base-1.0",
    hub_revision="462165984030d82259a11f4367a4eed129e94a7b",
    parameters=2_567_463_684,
    latent=loading.latent_space(SCALE),
    prediction=Prediction.NOISE,
    token_dim=2048,
    pooled_dim=POOLED,
    size=SIZE,
    low_memory=True,
    lora=unet.lora_rules((70, 17, 11)),
    fusion=(
        FusionSite(module="down_blocks.0", channels=320, stride=2),
        FusionSite(module="down_blocks.1", channels=640, stride=4),
        FusionSite(module="mid_block", channels=1280, stride=4),
        FusionSite(module="up_blocks.0", channels=1280, stride=2),
        FusionSite(module="up_blocks.1", channels=640, stride=1),
    ),
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC]
