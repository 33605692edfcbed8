"""The rate-distortion trade-off of stage 1, which trains the encoder without any diffusion model.

"Generative Image Coding with Diffusion Prior" (arXiv 2509.13768): L = sum over levels s of w_s (R_s + lambda_s D_s), with
auxiliary decoders. Each image of a batch draws one level, which estimates the sum without bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LambdaSchedule:
    """The rate-distortion trade-off per level: lambda grows geometrically; D is the mean squared error on 8-bit values.

    Level s weighs lambda_s ** -balance (scaled to mean 1), so that the low rates are not drowned by the high ones.
    """

    lowest: float = 6.698e-6
    highest: float = 2.076e-2
    levels: int = 12
    balance: float = 0.45

    def __post_init__(self) -> None:
        """Raises ValueError, TypeError: no trade-off, in a file of unknown origin."""
        if not (0 < self.lowest <= self.highest < math.inf and -math.inf < self.balance < math.inf):
            raise ValueError(f"lambdas from {self.lowest} to {self.highest}, balance {self.balance}")

    def lambdas(self, quality: Tensor) -> Tensor:
        ratio = self.highest / self.lowest
        return self.lowest * ratio ** (quality / (self.levels - 1))

    def weights(self, quality: Tensor) -> Tensor:
        every = self.lambdas(torch.linspace(0, self.levels - 1, 64, device=quality.device)) ** -self.balance
        return self.lambdas(quality) ** -self.balance / every.mean()
