"""The torch part of `toy`, apart so that listing backbones loads no torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec import Condition


class TwoConvolutions(nn.Sequential):
    """(b, 3, h, w) -> (b, 3, h, w); starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.add_module("conv1", nn.Conv2d(3, width, 3, padding=1))
        self.add_module("conv2", nn.Conv2d(width, 3, 3, padding=1))
        for conv in self.children():
            nn.init.dirac_(conv.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]


class Toy(nn.Module):
    """The backbone contract in a few lines; predicts the clean sample, with its colors shifted by the mean of the tokens."""

    def __init__(self, width: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch's layers draw weights, which are replaced at once
            self.module = TwoConvolutions(width)
        self.requires_grad_(False).eval()

    def alpha_bar(self, t: Tensor) -> Tensor:
        return torch.cos(t.float() / 1000 * math.pi / 2) ** 2

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        a, tokens = self.alpha_bar(t).to(x_t.dtype).view(-1, 1, 1, 1), condition.tokens
        assert tokens is not None  # for the type checker
        x = (x_t / a.sqrt().clamp_min(0.1)).to(next(self.module.parameters()).dtype)
        return self.module(x).to(x_t.dtype) + tokens.mean(1)[..., None, None]

    def to_latents(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 8)

    def to_pixels(self, z: Tensor) -> Tensor:
        return F.interpolate(z, scale_factor=8, mode="bilinear")
