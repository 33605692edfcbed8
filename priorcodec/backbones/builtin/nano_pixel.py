"""nano_pixel: our own small diffusion model in pixel space, the default. Sample prediction; convolutions, attention to tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, FusionSite, LoraRule, Prediction, hookimpl
from priorcodec.backbones.builtin._nano_latent import LATENT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LAYERS = 12
CONFIG: dict[str, Any] = {
    "width4": 64,
    "width8": 128,
    "width": 320,
    "blocks4": (1, 2),
    "blocks8": (2, 2),
    "layers": LAYERS,
    "heads": 5,
    "token_dim": 256,
}
TINY: dict[str, Any] = CONFIG | {"width4": 8, "width8": 8, "width": 16, "heads": 2}


def predict(model: Any, x_t: Tensor, t: Tensor, alpha_bar: Tensor, tokens: Tensor) -> Tensor:
    """Grids of odd size are padded: the trunk works at twice the stride."""
    from torch.nn.functional import pad

    height, width = x_t.shape[-2:]
    x_t = pad(x_t, (0, width % 2, 0, height % 2), mode="replicate")
    return model(x_t, t, alpha_bar.sqrt(), tokens)[..., :height, :width]


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    from priorcodec.backbones.builtin import _pixel_diffusion
    from priorcodec.backbones.builtin._nano_pixel import Denoiser

    return _pixel_diffusion.load(SPEC, lambda: Denoiser(**CONFIG), predict, weights, dtype=dtype)


def build_tiny() -> Any:
    from priorcodec.backbones.builtin import _pixel_diffusion
    from priorcodec.backbones.builtin._nano_pixel import Denoiser

    return _pixel_diffusion.load_tiny(SPEC, lambda: Denoiser(**TINY), predict)


SPEC = BackboneSpec(
    name="nano_pixel",
    summary="Our small convolutional model in pixel space, shipped with the package: the default",
    license="Apache-2.0",
    source="weights/nano_pixel.safetensors",
    sha256="d6dcd77d49b7a306e1921f320ea4c9219223d254fa4256016881171153c39564",
    parameters=10_727_024,
    latent=LATENT,
    prediction=Prediction.SAMPLE,
    token_dim=256,
    size=256,
    pixel_bytes=410,
    gpu_dtype="float32",
    lora=(
        LoraRule(pattern=r"trunk\.\d+\.(expand|project)", modules=2 * LAYERS),
        LoraRule(pattern=r"(down8|up8|down4|up4)\.\d+\.(expand|project)", modules=14),
        LoraRule(pattern=r"to8|to16|from16|from8|head|tail", modules=6),
        LoraRule(pattern=r"attention\.\d+\.attention\.(to_q|to_k|to_v|to_out\.0)", modules=16, rank=8),
    ),
    fusion=(
        FusionSite(module="down8.1", channels=128, stride=1),
        FusionSite(module="trunk.1", channels=320, stride=2),
        FusionSite(module="trunk.4", channels=320, stride=2),
        FusionSite(module="trunk.7", channels=320, stride=2),
        FusionSite(module="trunk.10", channels=320, stride=2),
        FusionSite(module="up8.0", channels=128, stride=1),
    ),
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC]
