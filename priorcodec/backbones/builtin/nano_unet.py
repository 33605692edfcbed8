"""nano_unet: our own small U-Net, the embedded default. diffusers' UNet2DConditionModel, noise prediction, unconditional."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, FusionSite, LoraRule, Prediction, hookimpl
from priorcodec.backbones.builtin._nano_latent import LATENT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (96, 128, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 64,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
    "norm_num_groups": 16,
}
TINY: dict[str, Any] = CONFIG | {"block_out_channels": (8, 16, 16), "norm_num_groups": 4, "sample_size": 8}


def predict(unet: Any, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
    return unet(x_t, t, encoder_hidden_states=tokens, return_dict=False)[0]


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from priorcodec.backbones.builtin import _nano

    return _nano.load(SPEC, UNet2DConditionModel(**CONFIG), predict, weights, dtype=dtype)


def build_tiny() -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from priorcodec.backbones.builtin import _nano

    return _nano.load_tiny(SPEC, lambda: UNet2DConditionModel(**TINY), predict)


SPEC = BackboneSpec(
    name="nano_unet",
    summary="Our small U-Net, shipped with the package: the default",
    license="Apache-2.0",
    source="weights/nano_unet.safetensors",
    sha256="75348ce414c0bb89233e62b9b63eb1dd6a9fdc824fde81e84e40e9f2ad21ccd4",
    parameters=6_372_968,
    latent=LATENT,
    prediction=Prediction.NOISE,
    token_dim=64,
    size=256,
    pixel_bytes=400,
    gpu_dtype="float32",
    lora=(
        LoraRule(pattern=r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)", modules=32, tiny_modules=32),
        LoraRule(pattern=r".*\.ff\.net\.(0\.proj|2)", modules=8, tiny_modules=8),
        LoraRule(pattern=r".*\.resnets\.\d+\.conv[12]", modules=22, tiny_modules=22),
    ),
    fusion=(
        FusionSite(module="down_blocks.0", channels=96, tiny_channels=8, stride=2),
        FusionSite(module="mid_block", channels=128, tiny_channels=16, stride=4),
        FusionSite(module="up_blocks.1", channels=128, tiny_channels=16, stride=1),
    ),
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC]
