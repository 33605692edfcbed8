"""Conditioning tokens in the place of an encoded prompt: learned vectors, plus what a mapper reads from the file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS = 128, 4
GRID = 8  # y_hat is averaged down to at most this many positions a side


def _normal(*shape: int, std: float) -> Tensor:
    """Normal random values; none on the meta device, where drawing them would import torch's compiler."""
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_(std=std)


class TokenMapper(nn.Module):
    """Makes the tokens and the pooled vector that the denoiser is conditioned on.

    tokens = base + attention of learned queries over y_hat; a fresh mapper returns the base alone. A denoiser with several
    text encoders gets a sequence of n tokens for each.

    Args:
        m: Channels of y_hat.
        levels: Quality levels of the encoder.
        n: Number of tokens.
        dim: Width of the tokens, 0 for none.
        pooled_dim: Width of the pooled vector, 0 for none.
        more_dims: Widths of further sequences of tokens.
        mapped: Whether the tokens depend on the file; if not, they are the base alone.
    """

    def __init__(
        self, m: int, levels: int, n: int, dim: int, pooled_dim: int, more_dims: Sequence[int] = (), *, mapped: bool
    ):
        super().__init__()
        self.levels, self.n = levels, n
        self.base = nn.Parameter(_normal(1, n, dim, std=0.02)) if dim else None
        self.more_base = nn.ParameterList(nn.Parameter(_normal(1, n, width, std=0.02)) for width in more_dims)
        self.pooled_base = nn.Parameter(torch.zeros(1, pooled_dim)) if pooled_dim else None
        queries = n * (bool(dim) + len(more_dims)) + bool(pooled_dim)
        self.mapped = mapped and queries > 0
        if self.mapped:
            self.queries = nn.Parameter(_normal(1, queries, WIDTH, std=1.0))
            self.key_value = nn.Conv2d(m + 1, 2 * WIDTH, 1)
            self.out = nn.Linear(WIDTH, dim, bias=False) if dim else None
            self.more_out = nn.ModuleList(nn.Linear(WIDTH, width, bias=False) for width in more_dims)
            self.pooled_out = nn.Linear(WIDTH, pooled_dim, bias=False) if pooled_dim else None
            for layer in (self.out, *self.more_out, self.pooled_out):
                if isinstance(layer, nn.Linear):
                    nn.init.zeros_(layer.weight)

    def forward(self, y_hat: Tensor, quality: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...], Tensor | None]:
        """Make the condition of a batch.

        Args:
            y_hat: Decoded features (b, m, h, w).
            quality: In levels (b,).

        Returns:
            Tokens (b, n, dim) or None, further tokens (b, n, width), pooled vector (b, pooled_dim) or None.
        """
        b = len(y_hat)
        tokens = None if self.base is None else self.base.expand(b, -1, -1)
        more = tuple(base.expand(b, -1, -1) for base in self.more_base)
        pooled = None if self.pooled_base is None else self.pooled_base.expand(b, -1)
        if not self.mapped:
            return tokens, more, pooled
        small = F.adaptive_avg_pool2d(y_hat, (min(GRID, y_hat.shape[-2]), min(GRID, y_hat.shape[-1])))
        plane = (quality / (self.levels - 1)).view(-1, 1, 1, 1).expand(-1, 1, *small.shape[-2:])
        key, value = self.key_value(torch.cat([small, plane.to(small)], 1)).flatten(2).mT.chunk(2, -1)
        query = self.queries.expand(b, -1, -1).to(key)
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (query, key, value))
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        parts = list(read.split(self.n, 1))
        if tokens is not None:
            assert self.out is not None
            tokens = tokens + self.out(parts.pop(0))
        more = tuple(base + out(parts.pop(0)) for base, out in zip(more, self.more_out, strict=True))
        if pooled is not None:
            assert self.pooled_out is not None
            pooled = pooled + self.pooled_out(read[:, -1])
        return tokens, more, pooled
