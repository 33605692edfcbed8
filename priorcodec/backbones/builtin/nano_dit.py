"""nano_dit: our own small transformer. diffusers' PixArtTransformer2DModel, velocity prediction, unconditional."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, FusionSite, LoraRule, Prediction, hookimpl
from priorcodec.backbones.builtin._nano_latent import LATENT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LAYERS, PATCH = 6, 2
WIDTH, TINY_WIDTH = 192, 16
CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 8,
    "patch_size": PATCH,
    "num_layers": LAYERS,
    "num_attention_heads": 3,
    "attention_head_dim": WIDTH // 3,
    "cross_attention_dim": WIDTH,
    "caption_channels": 64,
    "use_additional_conditions": False,
}
TINY: dict[str, Any] = CONFIG | {
    "num_attention_heads": 2,
    "attention_head_dim": TINY_WIDTH // 2,
    "cross_attention_dim": TINY_WIDTH,
}


def predict(model: Any, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
    """Latents of odd size are padded to whole patches. Attention is global: time grows with the square of the area."""
    from torch.nn.functional import pad

    height, width = x_t.shape[-2:]
    x_t = pad(x_t, (0, width % PATCH, 0, height % PATCH), mode="replicate")
    return model(x_t, tokens, timestep=t, return_dict=False)[0][..., :height, :width]


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    from priorcodec.backbones.builtin import _nano
    from priorcodec.backbones.builtin._nano_dit import Transformer

    return _nano.load(SPEC, Transformer(**CONFIG), predict, weights, dtype=dtype)


def build_tiny() -> Any:
    from priorcodec.backbones.builtin import _nano
    from priorcodec.backbones.builtin._nano_dit import Transformer

    return _nano.load_tiny(SPEC, lambda: Transformer(**TINY), predict)


def _rule(pattern: str, per_layer: int) -> LoraRule:
    return LoraRule(
        pattern=rf"transformer_blocks\.\d+\.{pattern}", modules=per_layer * LAYERS, tiny_modules=per_layer * LAYERS
    )


SPEC = BackboneSpec(
    name="nano_dit",
    summary="Our small transformer, shipped with the package",
    license="Apache-2.0",
    source="weights/nano_dit.safetensors",
    sha256="62b021064b7710503a588c8fa66e0a86baa9998d1cf5349a132208d95dc450b6",
    parameters=3_932_000,
    latent=LATENT,
    prediction=Prediction.VELOCITY,
    token_dim=64,
    size=256,
    pixel_bytes=400,
    gpu_dtype="float32",
    lora=(_rule(r"attn[12]\.(to_q|to_k|to_v|to_out\.0)", 8), _rule(r"ff\.net\.(0\.proj|2)", 2)),
    fusion=tuple(
        FusionSite(module=f"transformer_blocks.{i}", channels=WIDTH, tiny_channels=TINY_WIDTH, stride=PATCH)
        for i in (0, 2, 4)
    ),
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC]
