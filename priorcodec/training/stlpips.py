"""ST-LPIPS: a perceptual distance that tolerates small shifts (Ghildyal & Liu, ECCV 2022).

The two networks are written down here, and their weights are read from the files inside the package stlpips_pytorch. The
package itself is never imported: it needs IPython, torchsummary and torchvision, and none of them to compute anything.

    image ─scale─▶ five stages of AlexNet or VGG-16 ─unit length─▶ squared difference ─calibrated sum over channels─▶ mean
Both networks blur before they halve (Zhang, ICML 2019), with reflected borders; AlexNet's first convolution has stride 1.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from priorcodec.core.errors import WeightsError

PACKAGE = "stlpips_pytorch"


class Halve(nn.Module):
    """A 3x3 binomial blur at stride 2. The border of two reflected pixels adds one row and column, as trained."""

    filt: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("filt", torch.empty(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), self.filt, stride=2, groups=x.shape[1])


def _alex() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 64, 11, padding=2), Halve(64), nn.ReLU(),
        nn.MaxPool2d(3, 1), Halve(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(),
        nn.MaxPool2d(3, 1), Halve(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    ]  # fmt: skip


def _vgg() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        if layers:
            layers += [nn.MaxPool2d(2, 1), Halve(channels)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return layers


NETS = {"alex": (_alex, (3, 7, 11, 13, 15)), "vgg": (_vgg, (4, 10, 18, 26, 34))}
"""Layers of each network, and after how many of them each of the five stages ends."""


class ShiftTolerantLPIPS(nn.Module):
    """Images (b, 3, H, W) in [-1, 1], at least 32 pixels wide and high -> distance (b,), 0 for equal images.

    Args:
        net: "alex" or "vgg".

    Raises:
        WeightsError: the package that holds the weights is not installed.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str = "alex"):
        super().__init__()
        build, ends = NETS[net]
        layers = build()
        self.stages = nn.ModuleList(
            nn.Sequential(*layers[start:end]) for start, end in zip((0, *ends), ends, strict=False)
        )
        state = torch.load(weights(net), map_location="cpu", weights_only=True)
        self.register_buffer("shift", state["scaling_layer.shift"])
        self.register_buffer("scale", state["scaling_layer.scale"])
        for i, layer in enumerate(layers):
            prefix = f"net.slice{1 + sum(i >= end for end in ends)}.{i}."
            layer.load_state_dict({name: state[prefix + name] for name in layer.state_dict()})
        for i in range(len(ends)):
            self.register_buffer(f"lin{i}", state[f"lin{i}.model.1.weight"])
        self.requires_grad_(False).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        """Five feature maps whose vectors have unit length."""
        x, found = (x - self.shift) / self.scale, []
        for stage in self.stages:
            x = stage(x)
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Features of two batches of images -> (b,)."""
        pairs = enumerate(zip(a, b, strict=True))
        return sum(F.conv2d((x - y).square(), getattr(self, f"lin{i}")).mean((1, 2, 3)) for i, (x, y) in pairs)  # pyright: ignore[reportReturnType]

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return self.distance(self.features(x_hat), self.features(x))


def weights(net: str) -> Path:
    """The weight file inside the installed package, which is found without importing it. Raises WeightsError."""
    spec = find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / "weights" / "vST0.0" / f"{net}_shift_tolerant.pth" if folders else None
    if path is None or not path.is_file():
        raise WeightsError(f"ST-LPIPS needs the weights inside {PACKAGE}: pip install {PACKAGE}")
    return path
