"""Layers that the denoisers of `nano_pixel` and `nano_dit` share.

Module names, and so the names of weights, LoRA targets and fusion sites, are those of diffusers' `PixArtTransformer2DModel`; a
test compares the outputs. Importing diffusers takes many times as long as one decode.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def time_features(t: Tensor, channels: int) -> Tensor:
    """t (b,) in [0, 999] -> cosines and sines (b, channels), float32 (Vaswani et al. 2017)."""
    half = channels // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


def linear_betas_squared(start: float, end: float, steps: int = 1000) -> Tensor:
    """Cumulative signal fractions (steps,) of Stable Diffusion's schedule, whose square roots of beta are linear in time."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, 0)


def normal(*shape: int, std: float) -> Tensor:
    """Normal random values; none on the meta device, where drawing them would import torch's compiler."""
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_(std=std)


class TimeEmbedding(nn.Module):
    """(b, c_in) -> (b, width)."""

    def __init__(self, c_in: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(c_in, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class Attention(nn.Module):
    """Multi-head attention of x (b, n, width) to `context` (b, m, width), or to itself."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        parts = (self.to_q(x), self.to_k(context), self.to_v(context))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.to_out[0](y)


class TanhGelu(nn.Module):
    """GELU by its tanh approximation, after a projection."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """width -> 4 * width -> width."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([TanhGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))
