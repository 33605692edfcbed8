"""Training losses between images.

Perceptual: LPIPS (Zhang et al., CVPR 2018) or ST-LPIPS (Ghildyal & Liu, ECCV 2022), which carries its weights in its package.
Structure: gradient difference (Mathieu et al., ICLR 2016) with Sobel's operator. Grid: what an error repeats from block to
block, the dots that shuffled convolutions leave (Odena et al., Distill 2016). Spectrum: how strong texture is at each
frequency. Adversarial: PatchGAN (Isola et al., CVPR 2017) with the hinge loss.
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

from priorcodec.core.errors import TrainingError


class Perceptual(nn.Module):
    """ST-LPIPS distance on a frozen network. Images (b, 3, H, W) in [-1, 1] -> (b,), smaller is more alike.

    Args:
        net: "vgg" (train on this one) or "alex" (report this one).
    Raises:
        TrainingError: the `train` extra is not installed.
    """

    def __init__(self, net: str = "vgg"):
        super().__init__()
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                from stlpips_pytorch import stlpips
        except ImportError as error:
            raise TrainingError(f"the perceptual loss needs {error.name}: pip install 'priorcodec[train]'") from error
        self.metric = stlpips.LPIPS(net=net, variant="shift_tolerant", verbose=False).requires_grad_(False).eval()

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.metric(x_hat, x).flatten().float()


LPIPS_WEIGHTS = "vgg16-397923af.pth"  # torchvision's VGG-16, as `lpips` looks for it


class Lpips(nn.Module):
    """LPIPS-VGG distance. Images (b, 3, H, W) in [-1, 1] -> (b,)."""

    def __init__(self):
        super().__init__()
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                import lpips

                self.metric = lpips.LPIPS(net="vgg", verbose=False).requires_grad_(False).eval()
        except ImportError as error:
            raise TrainingError(f"perceptual=lpips needs {error.name}: pip install lpips") from error

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.metric(x_hat, x).flatten().float()


def perceptual(name: str) -> tuple[nn.Module, str]:
    """auto, lpips or stlpips -> the distance and its name; auto: LPIPS when its weights are in torch's cache."""
    weights = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS
    if name == "lpips" and not weights.exists():
        raise TrainingError(f"perceptual=lpips needs {LPIPS_WEIGHTS} in {weights.parent}: put it there, or take auto")
    if name == "lpips" or (name == "auto" and weights.exists() and importlib.util.find_spec("lpips")):
        return Lpips(), "LPIPS (VGG)"
    return Perceptual("vgg"), "ST-LPIPS (VGG)" + (": no LPIPS weights here" if name == "auto" else "")


def structure(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference of the Sobel gradients, as far apart as the pixels themselves: (b, 3, H, W) twice -> scalar."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device) / 8
    kernel = torch.stack([across, across.T])[:, None].repeat(3, 1, 1, 1)
    return F.conv2d(x_hat - x, kernel, groups=3).abs().mean()


def grid(x_hat: Tensor, x: Tensor, period: int = 16, reach: int = 4) -> Tensor:
    """Mean absolute error that neighboring blocks share, as far apart as the pixels themselves: (b, 3, H, W) twice -> scalar.

    The error of each place in a block of `period`, less the block's mean, averaged over `reach` by `reach` blocks: texture
    that is merely wrong averages out, a pattern of that period (or one it is a multiple of) stays.
    Sides: multiples of `period`, at least `period * reach`.
    """
    error = F.pixel_unshuffle(x_hat - x, period).unflatten(1, (3, period**2))
    pattern = (error - error.mean(2, keepdim=True)).flatten(1, 2)
    return F.avg_pool2d(pattern, reach, stride=reach // 2).abs().mean()


def spectrum(x_hat: Tensor, x: Tensor, sides: tuple[int, ...] = (16, 32), floor: float = 0.02) -> Tensor:
    """Mean absolute log ratio of local amplitude spectra: (b, 3, H, W) twice -> scalar.

    Of each frequency in Hann windows of each of the `sides`, half overlapping, power averaged over 3x3 neighboring windows:
    where texture lies is free, how strong it is and at which frequency is not, so blur and regular dots both count. floor:
    amplitude, as far apart as the pixels, below which nothing is seen. Sides of the images: at least twice the largest. As
    the multi-resolution spectral loss of vocoders (Yamamoto et al., ICASSP 2020), for images.
    """

    def log_power(x: Tensor, side: int) -> Tensor:
        hann = torch.hann_window(side, device=x.device)
        window = hann[:, None] * hann / hann.square().mean()
        parts = x.float().unfold(2, side, side // 2).unfold(3, side, side // 2) * window
        values = torch.fft.rfft2(parts, norm="ortho")
        power = (values.real.square() + values.imag.square()).flatten(4).movedim(-1, 2).flatten(1, 2)
        return torch.log(F.avg_pool2d(power, 3, stride=1) + floor**2)

    return torch.stack([(log_power(x_hat, side) - log_power(x, side)).abs().mean() / 2 for side in sides]).mean()


class Critic(nn.Module):
    """Patch discriminator: images (b, 3, H, W) -> (b, 1, H/8, W/8), above 0 for real."""

    def __init__(self, width: int = 48):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for c in (width, 2 * width):
            layers += [nn.Conv2d(c, 2 * c, 4, 2, 1), nn.GroupNorm(8, 2 * c), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def losses(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """-> (what the decoder minimizes, what the critic minimizes); neither moves the other's weights."""
        own = {name: parameter.detach() for name, parameter in self.named_parameters()}
        decoder = -torch.func.functional_call(self, own, (x_hat,)).float().mean()
        critic = F.relu(1 - self(x).float()).mean() + F.relu(1 + self(x_hat.detach()).float()).mean()
        return decoder, critic
