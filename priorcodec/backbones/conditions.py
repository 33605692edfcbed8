"""A condition with every field that a spec asks for, from values of one's choice: for counting shapes, tests and measurements."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from priorcodec.backbones.spec import BackboneSpec, Condition, ImageInput


def make_condition(
    spec: BackboneSpec, x_t: Tensor, *, tokens: int = 2, values: Callable[..., Tensor] = torch.zeros
) -> Condition:
    """Fill a condition for `spec.build(...).predict`.

    Args:
        spec: Says which fields there are.
        x_t: (b, channels, h, w); the condition fits its batch and grid.
        tokens: Number of tokens in each sequence.
        values: Sizes -> tensor, as `torch.zeros` and `torch.randn` have it.
    """
    batch, _, height, width = x_t.shape
    stride, wanted = spec.latent.stride, spec.image_inputs

    def field(there: object, *shape: int) -> Tensor | None:
        return values(batch, *shape) if there else None

    return Condition(
        tokens=field(spec.token_dim, tokens, spec.token_dim),
        more_tokens=tuple(values(batch, tokens, width) for width in spec.more_token_dims),
        pooled=field(spec.pooled_dim, spec.pooled_dim),
        preview=field(ImageInput.PREVIEW in wanted, 3, height * stride, width * stride),
        thumbnail=field(ImageInput.THUMBNAIL in wanted, 3, height, width),
        latent=field(ImageInput.LATENT in wanted, spec.latent.channels, height, width),
        features=field(spec.feature_dim, spec.feature_dim, height, width),
    )


def map_condition(condition: Condition, function: Callable[[Tensor], Tensor]) -> Condition:
    """The same fields, each tensor replaced by `function` of it."""
    fields = {name: value for name, value in vars(condition).items() if isinstance(value, Tensor)}
    more = tuple(function(value) for value in condition.more_tokens)
    return Condition(more_tokens=more, **{name: function(value) for name, value in fields.items()})


def tensors(condition: Condition) -> dict[str, Tensor]:
    """Every tensor of a condition by name; further tokens as `more_tokens[0]` and so on."""
    named = {name: value for name, value in vars(condition).items() if isinstance(value, Tensor)}
    return named | {f"more_tokens[{i}]": value for i, value in enumerate(condition.more_tokens)}
