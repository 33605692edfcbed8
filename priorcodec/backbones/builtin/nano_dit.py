"""nano_dit: our own small transformer in pixel space. Velocity prediction; a PixArt transformer in small."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, FusionSite, LoraRule, Prediction, hookimpl
from priorcodec.backbones.builtin._nano_latent import LATENT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LAYERS, PATCH = 8, 2
WIDTH, TINY_WIDTH = 192, 16
CONFIG: dict[str, Any] = {
    "channels": 192,
    "width": WIDTH,
    "layers": LAYERS,
    "heads": 3,
    "token_dim": 256,
    "patch": PATCH,
}
TINY: dict[str, Any] = CONFIG | {"width": TINY_WIDTH, "heads": 2}


def predict(model: Any, x_t: Tensor, t: Tensor, alpha_bar: Tensor, tokens: Tensor) -> Tensor:
    """Grids of odd size are padded to whole patches. Attention is global: time grows with the square of the area."""
    from torch.nn.functional import pad

    height, width = x_t.shape[-2:]
    x_t = pad(x_t, (0, width % PATCH, 0, height % PATCH), mode="replicate")
    return model(x_t, t, tokens)[..., :height, :width]


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    from priorcodec.backbones.builtin import _pixel_diffusion
    from priorcodec.backbones.builtin._nano_dit import Transformer

    return _pixel_diffusion.load(SPEC, lambda: Transformer(**CONFIG), predict, weights, dtype=dtype)


def build_tiny() -> Any:
    from priorcodec.backbones.builtin import _pixel_diffusion
    from priorcodec.backbones.builtin._nano_dit import Transformer

    return _pixel_diffusion.load_tiny(SPEC, lambda: Transformer(**TINY), predict)


def _rule(pattern: str, per_layer: int) -> LoraRule:
    return LoraRule(pattern=rf"transformer_blocks\.\d+\.{pattern}", modules=per_layer * LAYERS)


SPEC = BackboneSpec(
    name="nano_dit",
    summary="Our small transformer in pixel space, shipped with the package",
    license="Apache-2.0",
    source="weights/nano_dit.safetensors",
    sha256="313f39c77ce9c6ef3c501ff4d098b1d351565938d331170a07209a4e21c19b10",
    parameters=5_439_168,
    latent=LATENT,
    prediction=Prediction.VELOCITY,
    token_dim=256,
    size=256,
    pixel_bytes=230,
    gpu_dtype="float32",
    lora=(_rule(r"attn[12]\.(to_q|to_k|to_v|to_out\.0)", 8), _rule(r"ff\.net\.(0\.proj|2)", 2)),
    fusion=tuple(FusionSite(module=f"transformer_blocks.{i}", channels=WIDTH, stride=PATCH) for i in (0, 2, 4, 6)),
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC]
