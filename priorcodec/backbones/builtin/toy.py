"""toy: two convolutions, for docs and tests. Its latent is the image's 8x8 block means, so it decodes to a smooth mosaic.

The shortest complete plugin: it also answers `priorcodec_weights`, because its weights are computed, not stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, FusionSite, LatentSpace, LoraRule, Prediction, hookimpl

if TYPE_CHECKING:
    import torch

WIDTH = 16


def build(weights: Path | None, *, dtype: torch.dtype) -> Any:
    from priorcodec.backbones.builtin._toy_model import Toy

    return Toy(WIDTH).to(dtype)


def build_tiny() -> Any:
    import torch

    return build(None, dtype=torch.float32)


SPEC = BackboneSpec(
    name="toy",
    summary="Two convolutions on 8x8 block means, for docs and tests",
    license="Apache-2.0",
    source="computed when built",
    parameters=2 * 9 * 3 * WIDTH + WIDTH + 3,
    latent=LatentSpace(channels=3, stride=8, scale=1.0, mean=(0.0,) * 3, std=(0.5,) * 3),
    prediction=Prediction.SAMPLE,
    token_dim=3,
    size=64,
    pixel_bytes=100,
    lora=(LoraRule(pattern=r"conv[12]", modules=2, rank=4),),
    fusion=(FusionSite(module="conv1", channels=WIDTH, stride=1),),
    build=build,
    build_tiny=build_tiny,
)


@hookimpl
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    return [SPEC]


@hookimpl
def priorcodec_weights(spec: BackboneSpec) -> Path | None:
    return Path(__file__) if spec is SPEC else None
