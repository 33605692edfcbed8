"""The token mapper: vectors that stand where text stood, in part learned once, in part read from the file."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.core.errors import AdapterError

WIDTH, HEADS = 128, 4
GRID = 8  # y_hat is averaged down to at most this many positions a side


def _normal(*shape: int, std: float) -> Tensor:
    """Normal random values; none on the meta device, where drawing them would import torch's compiler."""
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_(std=std)


class TokenMapper(nn.Module):
    """y_hat (b, m, h, w), quality (b,) -> tokens (b, n, dim) and pooled vector (b, pooled_dim) or None.

    tokens = base + learned queries' attention over y_hat; a fresh mapper answers with the base alone.

    Args:
        m: channels of y_hat; levels: of the encoder; n, dim: number and width of the tokens; pooled_dim: 0 for none;
        mapped: False leaves the base alone, the same for every image.
    """

    def __init__(self, m: int, levels: int, n: int, dim: int, pooled_dim: int, *, mapped: bool):
        super().__init__()
        self.levels = levels
        self.base = nn.Parameter(_normal(1, n, dim, std=0.02))
        self.pooled_base = nn.Parameter(torch.zeros(1, pooled_dim)) if pooled_dim else None
        self.mapped = mapped
        if mapped:
            self.queries = nn.Parameter(_normal(1, n + bool(pooled_dim), WIDTH, std=1.0))
            self.key_value = nn.Conv2d(m + 1, 2 * WIDTH, 1)
            self.out = nn.Linear(WIDTH, dim, bias=False)
            self.pooled_out = nn.Linear(WIDTH, pooled_dim, bias=False) if pooled_dim else None
            for layer in (self.out, self.pooled_out):
                if layer is not None:
                    nn.init.zeros_(layer.weight)

    def forward(self, y_hat: Tensor, quality: Tensor) -> tuple[Tensor, Tensor | None]:
        b = len(y_hat)
        tokens = self.base.expand(b, -1, -1)
        pooled = None if self.pooled_base is None else self.pooled_base.expand(b, -1)
        if not self.mapped:
            return tokens, pooled
        small = F.adaptive_avg_pool2d(y_hat, (min(GRID, y_hat.shape[-2]), min(GRID, y_hat.shape[-1])))
        plane = (quality / (self.levels - 1)).view(-1, 1, 1, 1).expand(-1, 1, *small.shape[-2:])
        key, value = self.key_value(torch.cat([small, plane.to(small)], 1)).flatten(2).mT.chunk(2, -1)
        query = self.queries.expand(b, -1, -1).to(key)
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (query, key, value))
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(read[:, : self.base.shape[1]])
        if pooled is not None:
            assert self.pooled_out is not None
            pooled = pooled + self.pooled_out(read[:, -1])
        return tokens, pooled

    @torch.no_grad()
    def start_from(self, tokens: Tensor, pooled: Tensor | None = None) -> None:
        """Begin with an encoded prompt, usually the empty one, instead of small random vectors.

        tokens (n', dim) with n' >= n, of which the first n are taken; pooled (pooled_dim,) where the backbone has one.
        Raises:
            AdapterError: another width, too few tokens, or a pooled vector that is missing or too many.
        """
        n, dim = self.base.shape[1:]
        if tokens.ndim != 2 or tokens.shape[1] != dim or len(tokens) < n:
            raise AdapterError(
                f"prompt tokens are {tuple(tokens.shape)}, wanted at least ({n}, {dim}): encode another prompt"
            )
        if (pooled is None) != (self.pooled_base is None):
            wanted = "no pooled vector" if self.pooled_base is None else "a pooled vector as well"
            raise AdapterError(f"this backbone wants {wanted}: encode the prompt for this backbone")
        self.base.copy_(tokens[:n][None])
        if pooled is not None and self.pooled_base is not None:
            if pooled.shape != self.pooled_base.shape[1:]:
                raise AdapterError(
                    f"pooled vector is {tuple(pooled.shape)}, wanted {tuple(self.pooled_base.shape[1:])}"
                )
            self.pooled_base.copy_(pooled[None])
