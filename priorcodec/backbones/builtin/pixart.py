"""PixArt-alpha (Chen et al. 2023) and -Sigma (2024): transformers; variance dropped, size conditions made inside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, FusionSite, LoraRule, Prediction, hookimpl
from priorcodec.backbones.builtin import _loading as loading

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALPHA_SCALE, SIGMA_SCALE = 0.18215, 0.13025  # alpha decodes with SD1.5's autoencoder, Sigma with SDXL's
SIZE = 1024
LAYERS = 28
PATCH = 2
IDENTITY = ("caption_channels", "in_channels", "out_channels")


def predict(model: Any, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
    """Latents of odd size are padded to whole patches; alpha is told of a square 1024-pixel image, always."""
    from torch.nn.functional import pad

    height, width = x_t.shape[-2:]
    x_t = pad(x_t, (0, width % PATCH, 0, height % PATCH), mode="replicate")
    extra = {"resolution": None, "aspect_ratio": None}
    if model.use_additional_conditions:
        size = x_t.new_full((len(x_t), 2), SIZE)
        extra = {"resolution": size, "aspect_ratio": x_t.new_ones(len(x_t), 1)}
    output = model(x_t, tokens, timestep=t, added_cond_kwargs=extra, return_dict=False)[0]
    return output[..., :height, :width]


ALPHA = loading.Model(
    denoiser={
        "sample_size": 128,
        "num_layers": LAYERS,
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "cross_attention_dim": 1152,
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": PATCH,
        "caption_channels": 4096,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "use_additional_conditions": True,
    },
    autoencoder=loading.autoencoder(scale=ALPHA_SCALE, size=512),
    scheduler={"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    predict=predict,
    identity=IDENTITY,
)
SIGMA = replace(
    ALPHA,
    denoiser={**ALPHA.denoiser, "use_additional_conditions": False, "interpolation_scale": 2},
    autoencoder=loading.autoencoder(scale=SIGMA_SCALE, size=SIZE, force_upcast=True),
    fp16_autoencoder=False,
)


def tiny(model: loading.Model, scale: float) -> loading.Model:
    """All layers, so that fusion sites keep their paths, but 24 channels wide."""
    small = {"sample_size": 16, "num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24}
    return replace(model, denoiser={**model.denoiser, **small}, autoencoder=loading.tiny_autoencoder(scale))


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    return loading.load(SPEC, ALPHA, weights, dtype=dtype)


def build_sigma(weights: Path | None, *, dtype: torch.dtype) -> Any:
    return loading.load(SPEC_SIGMA, SIGMA, weights, dtype=dtype)


def build_tiny() -> Any:
    return loading.load_tiny(SPEC, tiny(ALPHA, ALPHA_SCALE))


def build_tiny_sigma() -> Any:
    return loading.load_tiny(SPEC_SIGMA, tiny(SIGMA, SIGMA_SCALE))


def _rule(pattern: str, per_layer: int) -> LoraRule:
    return LoraRule(pattern=rf"transformer_blocks\.\d+\.{pattern}", modules=per_layer * LAYERS)


_spec = partial(
    BackboneSpec,
    denoiser_subfolder="transformer",
    license="CreativeML OpenRAIL++-M",
    prediction=Prediction.NOISE,
    token_dim=4096,
    size=SIZE,
    low_memory=True,
    lora=(_rule(r"attn[12]\.(to_q|to_k|to_v|to_out\.0)", 8), _rule(r"ff\.net\.(0\.proj|2)", 2)),
    fusion=tuple(FusionSite(module=f"transformer_blocks.{i}", channels=1152, stride=PATCH) for i in (0, 7, 14, 21)),
)

SPEC = _spec(
    name="pixart",
    summary="PixArt-alpha XL 2, a transformer at 1024 pixels (float16 overflows: bfloat16 or float32)",
    source="PixArt-alpha/PixArt-XL-2-1024-MS",
    hub_revision="b89adadeccd9ead2adcb9fa2825d3fabec48d404",
    parameters=611_349_152,
    latent=loading.latent_space(ALPHA_SCALE),
    build=build,
    build_tiny=build_tiny,
)
SPEC_SIGMA = _spec(
    name="pixart.sigma",
    summary="PixArt-Sigma XL 2, a transformer at 1024 pixels with SDXL's autoencoder",
    source="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
    hub_revision="e102b3591cc82e97071b8b4cb90d834d0c487207",
    parameters=610_856_096,
    latent=loading.latent_space(SIGMA_SCALE),
    build=build_sigma,
    build_tiny=build_tiny_sigma,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC, SPEC_SIGMA]
