"""nano_unet: our own small U-Net, the default. Noise prediction, unconditional; a Stable Diffusion U-Net in small."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, FusionSite, LoraRule, Prediction, hookimpl
from priorcodec.backbones.builtin._nano_latent import LATENT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CONFIG: dict[str, Any] = {"channels": 8, "widths": (96, 128, 128), "heads": 4, "context": 64, "groups": 16}
TINY: dict[str, Any] = CONFIG | {"widths": (8, 16, 16), "groups": 4}


def predict(unet: Any, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
    return unet(x_t, t, tokens)


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    from priorcodec.backbones.builtin import _nano
    from priorcodec.backbones.builtin._nano_unet import UNet

    return _nano.load(SPEC, lambda: UNet(**CONFIG), predict, weights, dtype=dtype)


def build_tiny() -> Any:
    from priorcodec.backbones.builtin import _nano
    from priorcodec.backbones.builtin._nano_unet import UNet

    return _nano.load_tiny(SPEC, lambda: UNet(**TINY), predict)


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
        LoraRule(pattern=r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)", modules=32),
        LoraRule(pattern=r".*\.ff\.net\.(0\.proj|2)", modules=8),
        LoraRule(pattern=r".*\.resnets\.\d+\.conv[12]", modules=22),
    ),
    fusion=(
        FusionSite(module="down_blocks.0", channels=96, stride=2),
        FusionSite(module="mid_block", channels=128, stride=4),
        FusionSite(module="up_blocks.1", channels=128, stride=1),
    ),
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC]
