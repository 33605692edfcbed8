"""The rate-distortion trade-off of encoder 2 per level: lambda grows geometrically, three levels below the first encoder's."""

from __future__ import annotations

import torch
from torch import Tensor

RATIO = 2.0768  # of lambda from one level to the next
LOWEST = 6e-5 / RATIO**3


def lambdas(quality: Tensor) -> Tensor:
    """Bits per pixel for one unit of squared error on 8-bit values."""
    return LOWEST * RATIO**quality


def weights(quality: Tensor, top: int, balance: float = 0.45) -> Tensor:
    """Relative weight of a level in the loss: about one over its rate, mean 1."""
    every = lambdas(torch.linspace(0, top, 64, device=quality.device)) ** -balance
    return lambdas(quality) ** -balance / every.mean()
