"""Training losses between images.

Perceptual: LPIPS (Zhang et al., CVPR 2018) or ST-LPIPS (Ghildyal & Liu, ECCV 2022), which carries its weights in its package.
Gradient difference: Mathieu et al., ICLR 2016, with Sobel's operator. Periodic artifact: the part of an error that repeats from
block to block, as the dots that shuffled convolutions leave (Odena et al., Distill 2016). Spectral: how strong texture is at
each frequency. Diversity: half of the energy score (Gneiting & Raftery, JASA 2007).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.core.errors import TrainingError, WeightsError
from priorcodec.core.precision import autocast
from priorcodec.training.stlpips import ShiftTolerantLPIPS

LPIPS_WEIGHTS = "vgg16-397923af.pth"  # torchvision's VGG-16, as `lpips` looks for it


class Distance(nn.Module):
    """A metric of packages, frozen, in half precision where that is fast.

    Images (b, 3, H, W) in [-1, 1] -> distances (b,), smaller is more alike.
    """

    def __init__(self, metric: nn.Module):
        super().__init__()
        self.metric = metric

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        with autocast(x.device):
            return self.metric(x_hat, x).flatten().float()


def stlpips() -> Distance:
    """ST-LPIPS (VGG). Raises TrainingError: the `train` extra is not installed."""
    try:
        return Distance(ShiftTolerantLPIPS("vgg"))
    except WeightsError as error:
        raise TrainingError(
            f"the perceptual loss needs its weights: pip install 'priorcodec[train]' ({error})"
        ) from error


def lpips() -> Distance:
    """LPIPS (VGG). Raises TrainingError: the package is missing."""
    try:
        with _quiet():
            from lpips import LPIPS

            return Distance(LPIPS(net="vgg", verbose=False).requires_grad_(False).eval())
    except ImportError as error:
        raise TrainingError(f"perceptual=lpips needs {error.name}: pip install lpips") from error


def perceptual(name: str) -> tuple[nn.Module, str]:
    """auto, lpips or stlpips -> the distance and its name; auto: LPIPS if its weights are in torch's cache.

    Raises:
        TrainingError: the weights or the package are missing.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS
    if name == "lpips" and not weights.exists():
        raise TrainingError(f"perceptual=lpips needs {LPIPS_WEIGHTS} in {weights.parent}: put it there, or use auto")
    if name == "lpips" or (name == "auto" and weights.exists() and importlib.util.find_spec("lpips")):
        return lpips(), "LPIPS (VGG)"
    return stlpips(), "ST-LPIPS (VGG)" + (": no LPIPS weights here" if name == "auto" else "")


def gradient_difference(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference of the Sobel gradients, in the units of the pixels: (b, 3, H, W) twice -> scalar."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device) / 8
    kernel = torch.stack([across, across.T])[:, None].repeat(3, 1, 1, 1)
    return F.conv2d(x_hat - x, kernel, groups=3).abs().mean()


def periodic_artifact(x_hat: Tensor, x: Tensor, period: int = 16, reach: int = 4) -> Tensor:
    """Mean absolute error that neighboring blocks share, in the units of the pixels: (b, 3, H, W) twice -> scalar.

    The error of each position in a block of `period` pixels, less the block's mean, is averaged over `reach` by `reach` blocks:
    wrong texture averages out, a pattern that repeats with this period (or a divisor of it) stays.
    Sides must be multiples of `period` and at least `period * reach`.
    """
    error = F.pixel_unshuffle(x_hat - x, period).unflatten(1, (3, period**2))
    pattern = (error - error.mean(2, keepdim=True)).flatten(1, 2)
    return F.avg_pool2d(pattern, reach, stride=reach // 2).abs().mean()


def spectral(x_hat: Tensor, x: Tensor, sides: tuple[int, ...] = (16, 32), floor: float = 0.02) -> Tensor:
    """Mean absolute log ratio of local amplitude spectra: (b, 3, H, W) twice -> scalar.

    Power is taken per frequency in half-overlapping Hann windows and averaged over 3x3 neighboring windows. The position of
    texture is free, its strength at each frequency is not: blur and regular dots both count. As the multi-resolution spectral
    loss of vocoders (Yamamoto et al., ICASSP 2020), for images.

    Args:
        x_hat, x: images with sides of at least twice the largest window.
        sides: of the windows, in pixels.
        floor: amplitude, in the units of the pixels, below which nothing counts.
    """

    def log_power(x: Tensor, side: int) -> Tensor:
        hann = torch.hann_window(side, device=x.device)
        window = hann[:, None] * hann / hann.square().mean()
        parts = x.float().unfold(2, side, side // 2).unfold(3, side, side // 2) * window
        values = torch.fft.rfft2(parts, norm="ortho")
        power = (values.real.square() + values.imag.square()).flatten(4).movedim(-1, 2).flatten(1, 2)
        return torch.log(F.avg_pool2d(power, 3, stride=1) + floor**2)

    return torch.stack([(log_power(x_hat, side) - log_power(x, side)).abs().mean() / 2 for side in sides]).mean()


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


@contextlib.contextmanager
def _quiet():
    """Metric packages print and warn while they are imported."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
