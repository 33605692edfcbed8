"""Mean and standard deviation of parts and of the whole (AdaIN, Huang and Belongie 2017, eq. 8). torch is the caller's.

match_moments: renorm=predicted moves each channel of a latent to the moments that the adapter predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def match_moments(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """z (b, c, h, w) with each channel's mean and standard deviation over (h, w) moved to mean, std (b, c).

    A channel that is flat stays flat.
    """
    values = z.float()
    at = values.mean((2, 3), keepdim=True)
    spread = values.std((2, 3), correction=0, keepdim=True).clamp_min(1e-3)  # z is about 1: less is rounding
    return ((values - at) * (std.float()[:, :, None, None] / spread) + mean.float()[:, :, None, None]).to(z.dtype)


def merge_moments(parts: Sequence[tuple[float, Any, Any]]) -> tuple[Any, Any]:
    """(weight, mean, standard deviation) of each part, arrays or tensors -> mean and standard deviation of the whole.

    One part comes back as it is.
    """
    total = sum(weight for weight, _, _ in parts)
    mean = sum(m * (weight / total) for weight, m, _ in parts)
    return mean, sum((std**2 + (m - mean) ** 2) * (weight / total) for weight, m, std in parts) ** 0.5
