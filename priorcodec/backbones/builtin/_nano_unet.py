"""The torch part of `nano_unet`: the U-Net of Stable Diffusion (Rombach et al. 2022), as small as diffusers can configure it.

x_t --conv_in--> down_blocks --> mid_block --> up_blocks, each reading the skips of one down block --conv_out--> output
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.backbones.builtin._nano_layers import Attention, FeedForward, GatedGelu, TimeEmbedding, time_features


class Resnet(nn.Module):
    """Two convolutions with group norm, the time added between them."""

    def __init__(self, c_in: int, c_out: int, time: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(F.silu(time))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


class Block(nn.Module):
    """Self-attention, attention to the tokens, feed-forward, each after a layer norm."""

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, heads, bias=False)
        self.attn2 = Attention(width, heads, context, bias=False)
        self.ff = FeedForward(width, GatedGelu)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), tokens) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """One transformer block over the positions of a map (b, c, h, w)."""

    def __init__(self, width: int, heads: int, context: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([Block(width, heads, context)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        hidden = self.proj_in(self.norm(x))
        hidden = self.transformer_blocks[0](hidden.flatten(2).transpose(1, 2), tokens)
        return self.proj_out(hidden.transpose(1, 2).reshape(x.shape).contiguous()) + x


class Resample(nn.Module):
    """A 3x3 convolution at half the resolution (stride 2), or after an enlargement to `size`."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.conv(x if size is None else F.interpolate(x, size=size, mode="nearest"))


class Stage(nn.Module):
    """Residual blocks of one resolution, with attention after each where `heads` is not 0."""

    def __init__(self, channels: list[tuple[int, int]], time: int, groups: int, heads: int, context: int):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(c_in, c_out, time, groups) for c_in, c_out in channels)
        if heads:
            width = channels[-1][1]
            self.attentions = nn.ModuleList(SpatialTransformer(width, heads, context, groups) for _ in channels)
        self.attends = bool(heads)

    def layer(self, i: int, x: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        x = self.resnets[i](x, time)
        return self.attentions[i](x, tokens) if self.attends else x


class Down(Stage):
    """-> hidden state, and a skip after each layer and after the halving."""

    def __init__(self, c_in: int, c_out: int, *, last: bool, **settings: int):
        super().__init__([(c_in, c_out)], **settings)  # pyright: ignore[reportArgumentType]
        if not last:
            self.downsamplers = nn.ModuleList([Resample(c_out, 2)])
        self.last = last

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = self.layer(0, x, time, tokens)
        skips = (x,)
        if not self.last:
            x = cast(nn.ModuleList, self.downsamplers)[0](x)
            skips += (x,)
        return x, skips


class Up(Stage):
    """Reads two skips; enlarges to `size` unless it is the last block."""

    def __init__(self, c_in: int, skips: tuple[int, int], c_out: int, *, last: bool, **settings: int):
        super().__init__([(c_in + skips[0], c_out), (c_out + skips[1], c_out)], **settings)  # pyright: ignore[reportArgumentType]
        if not last:
            self.upsamplers = nn.ModuleList([Resample(c_out, 1)])
        self.last = last

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        for i, skip in enumerate(skips):
            x = self.layer(i, torch.cat([x, skip], 1), time, tokens)
        return x if self.last else cast(nn.ModuleList, self.upsamplers)[0](x, size)


class Middle(Stage):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, width: int, time: int, groups: int, heads: int, context: int):
        super().__init__([(width, width)], time, groups, heads, context)
        self.resnets.append(Resnet(width, width, time, groups))

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        return self.resnets[1](self.layer(0, x, time, tokens), time)


class UNet(nn.Module):
    """x_t (b, channels, h, w), t (b,), tokens (b, n, context) -> output like x_t; attention at the lowest resolution only.

    Args:
        channels: Channels of x_t.
        widths: Channels per resolution, from the highest to the lowest.
        heads: Attention heads.
        context: Width of the tokens.
        groups: Groups of every group norm.
    """

    def __init__(self, *, channels: int, widths: tuple[int, ...], heads: int, context: int, groups: int):
        super().__init__()
        time, top = 4 * widths[0], len(widths) - 1
        settings = {"time": time, "groups": groups, "context": context}
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time)
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.down_blocks = nn.ModuleList(
            Down(c_in, c_out, last=i == top, heads=heads if i == top else 0, **settings)
            for i, (c_in, c_out) in enumerate(pairs)
        )
        self.mid_block = Middle(widths[-1], heads=heads, **settings)
        self.up_blocks = nn.ModuleList()
        width = widths[-1]
        for i in reversed(range(len(widths))):
            skips = (widths[i], widths[max(i - 1, 0)])
            self.up_blocks.append(Up(width, skips, widths[i], last=i == 0, heads=heads if i == top else 0, **settings))
            width = widths[i]
        self.conv_norm_out = nn.GroupNorm(groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        time = self.time_embedding(time_features(t.expand(len(x_t)), self.conv_in.out_channels).to(x_t.dtype))
        x = self.conv_in(x_t)
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, time, tokens)
            skips += more
        x = self.mid_block(x, time, tokens)
        for block in self.up_blocks:
            own = [skips.pop(), skips.pop()]
            size = tuple(skips[-1].shape[-2:]) if skips else tuple(x.shape[-2:])
            x = block(x, own, time, tokens, size)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
