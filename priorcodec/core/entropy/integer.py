"""The trainable form of an integer layer: rounding simulated in float32, straight-through gradients (Balle et al., ICLR 2019).

`tables()` freezes it into the integers that `exact.ExactLayer` evaluates.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from priorcodec.core.entropy.exact import LIMIT, MAX_FAN_IN, ONE, WEIGHT_BITS, WEIGHT_LIMIT
from priorcodec.core.errors import WeightsError


def round_ste(x: Tensor) -> Tensor:
    """Round half up, with the gradient of the identity (straight-through)."""
    return x + (torch.floor(x + 0.5) - x).detach()


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, low, high):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        stuck = ((x < ctx.low) & (grad > 0)) | ((x > ctx.high) & (grad < 0))
        return grad.masked_fill(stuck, 0.0), None, None


def clamp_ste(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp with a gradient that vanishes only where a descent step would leave the range further."""
    return _Clamp.apply(x, low, high)  # pyright: ignore[reportReturnType]


def to_integers(name: str, value: Tensor, dtype: type[np.signedinteger]) -> NDArray:
    """Rounds half up and stores. Raises WeightsError: a value is not finite, or does not fit the type (it would wrap)."""
    rounded = torch.floor(value.detach().cpu().double() + 0.5).numpy()
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    if not np.isfinite(rounded).all():
        raise WeightsError(
            f"{name} holds values that are not finite: the training diverged, freeze an earlier checkpoint"
        )
    if rounded.size and not least <= rounded.min() <= rounded.max() <= most:
        found = rounded.flat[np.abs(rounded).argmax()]
        raise WeightsError(
            f"{name} holds {found:.0f} in fixed point, wanted {least} to {most}: the training diverged, "
            "freeze an earlier checkpoint"
        )
    return rounded.astype(dtype)


class IntConv2d(nn.Module):
    """A convolution on fixed-point integers; stride 1, zero padding that keeps the size.

    `forward` takes float tensors that hold the real value of the integers; weights and outputs are rounded to the fixed-point
    grid with straight-through gradients.

    Args:
        c_in: Input channels.
        c_out: Output channels.
        kernel: Side of the square kernel, 1 or 3.
        relu: Clamp the output at zero.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, *, relu: bool = True):
        super().__init__()
        if c_in * kernel * kernel > MAX_FAN_IN:
            raise ValueError(f"fan-in {c_in * kernel * kernel} breaks the exactness bound {MAX_FAN_IN}")
        self.kernel, self.relu = kernel, relu
        conv = nn.Conv2d(c_in, c_out, kernel)
        self.weight = nn.Parameter(conv.weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, a: Tensor) -> Tensor:
        """(b, c_in, h, w) real values -> (b, c_out, h, w) real values on the fixed-point grid."""
        scale = 1 << WEIGHT_BITS
        weight = round_ste(self.weight * scale).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT) / scale
        out = F.conv2d(a, weight, self.bias, padding=self.kernel // 2)
        return round_ste(out * ONE).clamp(0 if self.relu else -LIMIT, LIMIT) / ONE

    def tables(self) -> dict[str, NDArray]:
        """The integers this layer is made of: weight int16, clamped as in `forward`, and bias int32 (in units of the exact sum).

        Raises WeightsError: a value is not finite, or the bias does not fit.
        """
        scale = 1 << WEIGHT_BITS
        weight = (self.weight.detach().double() * scale).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        return {
            "weight": to_integers("weight", weight, np.int16),
            "bias": to_integers("bias", self.bias.detach().double() * scale * ONE, np.int32),
        }
