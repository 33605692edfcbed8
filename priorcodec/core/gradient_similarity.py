"""How well edges keep their strength: gradient magnitude similarity (Xue, Zhang, Mou and Bovik, "Gradient Magnitude Similarity
Deviation", IEEE TIP 2014).

    image --gray, mean of 2x2--> Prewitt --magnitude g--> (2 g g' + T) / (g^2 + g'^2 + T), 1 where both are equal (their eq. 4)
Its standard deviation over the image is GMSD, the metric (eq. 6): the more unevenly edges are lost, the larger. One less its
mean (eq. 5) is what refinement lowers, since a mean has a gradient everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY = (0.299, 0.587, 0.114)
CONSTANT = 170.0  # their T, for 8-bit values


def gradient_magnitude(x: Tensor) -> Tensor:
    """x (b, 3, h, w) in [-1, 1], sides at least 6 -> Prewitt magnitude of its half-size gray image, 8-bit units, no borders."""
    gray = 127.5 * (x * x.new_tensor(GRAY)[:, None, None]).sum(1, keepdim=True)
    across = torch.tensor([1.0, 0.0, -1.0], dtype=x.dtype, device=x.device).expand(3, 3) / 3
    with torch.autocast(x.device.type, enabled=False):  # differences of neighbors need every bit
        edges = F.conv2d(F.avg_pool2d(gray, 2), torch.stack([across, across.T])[:, None])
    return (edges.square().sum(1) + 1e-8).sqrt()  # without the last term a flat place has no gradient to follow


def similarity(magnitude: Tensor, other: Tensor) -> Tensor:
    """Two images' `gradient_magnitude` -> their similarity everywhere, in (0, 1]."""
    return (2 * magnitude * other + CONSTANT) / (magnitude.square() + other.square() + CONSTANT)


def deviation(x_hat: Tensor, x: Tensor) -> Tensor:
    """GMSD of two images (b, 3, h, w) in [-1, 1]: (b,), 0 for equal ones."""
    return similarity(gradient_magnitude(x_hat), gradient_magnitude(x)).flatten(1).std(1)
