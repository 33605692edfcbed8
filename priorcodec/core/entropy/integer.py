"""Integer convolutions: the arithmetic behind exact entropy decoding (Balle et al., "Integer Networks for
Data Compression with Latent-Variable Models", ICLR 2019).

Activations are fixed-point integers with `FRACTION_BITS` fractional bits, weights with `WEIGHT_BITS`.
    a (integers) --unfold + matmul in float64--> sum (exact: |sum| < 2**53) --floor(sum / 2**WEIGHT_BITS + 1/2)--> clamp --> a'
Every sum is exact whatever its order, so every device, thread count and library version gives the same integers.
Training simulates the same arithmetic in float32 with straight-through gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRACTION_BITS = 8
WEIGHT_BITS = 10
ONE = 1 << FRACTION_BITS
LIMIT = (1 << 15) - 1
WEIGHT_LIMIT = (1 << 15) - 1
STRIP = 1 << 22  # numbers of a strip that `exact_conv` works on at a time: 32 MiB
MAX_FAN_IN = 1 << 20  # 2**15 * 2**15 * 2**20 + bias < 2**53: the bound under which float64 sums are exact


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
    """Clamp whose gradient vanishes only where a descent step would lead further out of the range."""
    return _Clamp.apply(x, low, high)  # pyright: ignore[reportReturnType]


class IntConv2d(nn.Module):
    """A convolution on fixed-point integers; stride 1, zero padding that keeps the size.

    Training (`forward`): float tensors that hold the real value of the integers; weights and outputs are
    rounded to the fixed-point grid with straight-through gradients.
    Coding (`exact`): float64 tensors that hold the integers themselves; runs on the frozen integer tables.

    Args:
        c_in, c_out: channels; kernel: odd side of the square kernel; relu: clamp the output at zero.
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

    def tables(self) -> dict[str, Tensor]:
        """The integers this layer is made of: weight int16, bias int32 (in units of the exact sum)."""
        scale = 1 << WEIGHT_BITS
        weight = torch.floor(self.weight.detach().double() * scale + 0.5).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        bias = torch.floor(self.bias.detach().double() * scale * ONE + 0.5)
        return {"weight": weight.to(torch.int16), "bias": bias.to(torch.int32)}


def exact_conv(a: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """The same layer on integers: (c_in, h, w) float64 integers -> (c_out, h, w) float64 integers.

    Unfold + matmul only: a library convolution could choose a transform-domain algorithm, which is not exact. Rows are done in
    strips, since the columns of a large image would fill gigabytes; sums of integers do not mind.
    Args: weight int16 (c_out, c_in, k, k) and bias int32 (c_out,), as `IntConv2d.tables` gives them.
    """
    c_out, c_in, kernel, _ = weight.shape
    _, h, w = a.shape
    out = a.new_empty(c_out, h, w)
    matrix, offset, pad = weight.flatten(1).double(), bias.double(), kernel // 2
    rows = max(1, STRIP // (max(c_in * kernel**2, c_out) * w))
    for top in range(0, h, rows):
        end = min(h, top + rows)
        strip = a[:, max(0, top - pad) : end + pad]
        if kernel > 1:
            strip = F.pad(strip, (pad, pad, max(0, pad - top), max(0, end + pad - h)))
        out[:, top:end] = exact_strip(strip, matrix, offset, kernel, relu).view(c_out, end - top, w)
    return out


def exact_strip(strip: Tensor, matrix: Tensor, bias: Tensor, kernel: int, relu: bool) -> Tensor:
    """One strip of `exact_conv`, padded: (c_in, h, w) -> (c_out, positions), float64 integers all of them."""
    columns = F.unfold(strip[None], kernel)[0] if kernel > 1 else strip.flatten(1)
    total = (matrix @ columns).add_(bias[:, None])
    return total.div_(1 << WEIGHT_BITS).add_(0.5).floor_().clamp_(0 if relu else -LIMIT, LIMIT)
