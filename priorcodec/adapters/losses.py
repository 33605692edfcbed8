"""Training losses. Perceptual: ST-LPIPS (Ghildyal & Liu, ECCV 2022), which carries its weights in its package."""

from __future__ import annotations

import contextlib
import io
import warnings

import torch
from torch import Tensor, nn

from priorcodec.core.errors import TrainingError


class Perceptual(nn.Module):
    """ST-LPIPS distance on a frozen network. Pictures (b, 3, H, W) in [-1, 1] -> (b,), smaller is more alike.

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
