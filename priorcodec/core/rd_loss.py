"""The rate-distortion loss of stage 1, which trains the encoder without any diffusion model.

"Generative Image Coding with Diffusion Prior" (arXiv 2509.13768): L = sum over levels s of w_s (R_s + lambda_s D_s), with
an auxiliary decoder. Each image of a batch draws one level, which estimates the sum without bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from priorcodec.core.transforms import ImageEncoder


@dataclass(frozen=True, kw_only=True)
class LambdaSchedule:
    """The rate-distortion trade-off per level: lambda grows geometrically; D is the mean squared error on 8-bit values.

    Level s weighs lambda_s ** -balance (scaled to mean 1), so that the low rates are not drowned by the high ones.
    """

    lowest: float = 6e-5
    highest: float = 1e-2
    levels: int = 8
    balance: float = 0.4

    def lambdas(self, quality: Tensor) -> Tensor:
        ratio = self.highest / self.lowest
        return self.lowest * ratio ** (quality / (self.levels - 1))

    def weights(self, quality: Tensor) -> Tensor:
        every = self.lambdas(torch.linspace(0, self.levels - 1, 64)) ** -self.balance
        return self.lambdas(quality) ** -self.balance / every.mean()


@dataclass(frozen=True, kw_only=True)
class RDLoss:
    """loss: scalar to minimize; bpp and mse (8-bit values): per image, detached, shape (b,)."""

    loss: Tensor
    bpp: Tensor
    mse: Tensor


def rd_loss(
    model: ImageEncoder,
    x: Tensor,
    quality: Tensor,
    ladder: LambdaSchedule,
    *,
    autocast: bool = False,
    uniform: Callable[[Tensor], Tensor] = torch.rand_like,
) -> RDLoss:
    """x (b, 3, H, W) in [-1, 1], quality (b,) in levels -> the weighted stage-1 loss; uniform: see `relaxed_bits`."""
    out = model(x, quality, autocast=autocast, uniform=uniform)
    bpp = (out.y_bits + out.z_bits) / (x.shape[-1] * x.shape[-2])
    mse = ((out.x_hat - x) ** 2).mean((1, 2, 3)) * 127.5**2
    lam, weight = ladder.lambdas(quality), ladder.weights(quality)
    return RDLoss(loss=(weight * (bpp + lam * mse)).mean(), bpp=bpp.detach(), mse=mse.detach())
