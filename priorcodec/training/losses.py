"""Training losses between images, besides the perceptual distance (perceptual.py).

Gradient difference: Mathieu et al., ICLR 2016, with Sobel's operator. Periodic artifact: the part of an error that repeats from
block to block, as the dots that shuffled convolutions leave (Odena et al., Distill 2016). Diversity: half of the energy score
(Gneiting & Raftery, JASA 2007).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of R, G, B (ITU-R BT.601)
COARSE = 8  # pixels: chroma that changes over less is fine
PERIODS = ((8, 8), (16, 6))
"""Of periodic artifacts: period in pixels, and over how many blocks an error is averaged in each direction."""


def with_fine_chroma(x_hat: Tensor, x: Tensor) -> Tensor:
    """`x_hat` with the fine chroma of `x`, as a perceptual distance should see it: (b, 3, H, W) twice -> (b, 3, H, W).

    Feature networks like false color at edges and on texture, the eye does not; so fine chroma is left to the pixel losses.
    Sides must be multiples of 8.
    """
    difference = x - x_hat
    chroma = difference - (difference * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    size = x.shape[-2:]
    coarse = F.interpolate(F.avg_pool2d(chroma, COARSE), size=size, mode="bilinear", align_corners=False)
    return x_hat + chroma - coarse


def gradient_difference(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference of the Sobel gradients, in the units of the pixels: (b, 3, H, W) twice -> scalar."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device) / 8
    kernel = torch.stack([across, across.T])[:, None].repeat(3, 1, 1, 1)
    return F.conv2d(x_hat - x, kernel, groups=3).abs().mean()


def periodic_artifact(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean absolute error that neighboring blocks share, in the units of the pixels: (b, 3, H, W) twice -> scalar.

    For each period, the error of each position in a block, less the block's mean, is averaged over neighboring blocks: wrong
    texture averages out, a pattern that repeats with this period (or a divisor of it) stays. Feature networks like such
    patterns, the eye does not. Sides must be multiples of 16.
    """
    total = x.new_zeros(())
    for period, reach in PERIODS:
        error = F.pixel_unshuffle(x_hat - x, period).unflatten(1, (3, period**2))
        pattern = (error - error.mean(2, keepdim=True)).flatten(1, 2)
        reach = min(reach, *pattern.shape[-2:])
        total = total + F.avg_pool2d(pattern, reach, stride=max(reach // 2, 1)).abs().mean()
    return total


def diversity(x_hat: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Minus the mean absolute difference of two noise draws of one image, weighted by `share`, shape (b,).

    The absolute error alone is least without any noise; with half of this term it is the energy score, which is least where
    the draws differ as much as the originals that one file can stand for.
    """
    return -(share.view(-1, 1, 1, 1) * (x_hat - other).abs()).mean()


def moments(mean: Tensor, std: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Squared error of a predicted mean and std (b, c) against those of `target` (b, c, h, w), in units of `scale` (c,)."""
    pairs = ((mean, target.mean((2, 3))), (std, target.std((2, 3), correction=0)))
    return torch.stack([((got.float() - want) / scale).square().mean() for got, want in pairs]).sum()
