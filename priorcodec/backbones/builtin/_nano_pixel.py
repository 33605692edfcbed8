"""The torch part of `nano_pixel`: a convolutional denoiser in pixel space, whose trunk works at stride 16.

    x_t --stride 4--> blocks --stride 8--> blocks --stride 16--> trunk (time, tokens) --stride 8, skip--> --stride 4, skip--> F
    z = sqrt(alpha_bar) x_t + F
Inverted residuals with a depthwise 3x3 and a gate (MobileNetV2, Sandler et al., CVPR 2018; NAFNet, Chen et al., ECCV 2022),
modulated by time (adaLN-single, Chen et al. 2023). Light convolutions suffice for a codec's decoder (CoD-Lite, arXiv 2604.12525).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.backbones.builtin._nano_layers import Attention, TimeEmbedding, normal, time_features

TIME_CHANNELS = 128


class Block(nn.Module):
    """x + gate * project(a * b), where a and b are the halves of depthwise(expand(normalized and modulated x)).

    Args:
        width: Channels.
        inner: Channels of each half.
    """

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.scale_shift_table = nn.Parameter(normal(3, width, std=width**-0.5))
        self.expand = nn.Conv2d(width, 2 * inner, 1)
        self.depthwise = nn.Conv2d(2 * inner, 2 * inner, 3, padding=1, groups=2 * inner)
        self.project = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (b, width, h, w), time (b, 3 * width) -> (b, width, h, w)."""
        scale, shift, gate = (self.scale_shift_table + time.unflatten(1, (3, -1)))[..., None, None].unbind(1)
        a, b = self.depthwise(self.expand(normalize(x) * (1 + scale) + shift)).chunk(2, 1)
        return x + gate * self.project(a * b)


class TokenAttention(nn.Module):
    """Every place of x (b, width, h, w) attends to the tokens (b, n, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = Attention(width, heads)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        places = normalize(x).flatten(2).mT
        return x + self.attention(places, tokens).mT.unflatten(2, x.shape[2:])


class Denoiser(nn.Module):
    """x_t (b, 192, h, w), pixels unshuffled by 8, even sides; t (b,); signal (b,) = sqrt(alpha_bar); tokens (b, n, token_dim)
    -> estimate of the clean z, like x_t.

    Args:
        width4, width8, width: Channels at strides 4, 8 and 16.
        blocks4, blocks8: Blocks before and after the trunk at these strides.
        layers: Blocks of the trunk; every third attends to the tokens before.
        heads: Heads of that attention.
        token_dim: Width of the tokens.
    """

    def __init__(
        self,
        *,
        width4: int,
        width8: int,
        width: int,
        blocks4: Sequence[int],
        blocks8: Sequence[int],
        layers: int,
        heads: int,
        token_dim: int,
    ):
        super().__init__()
        self.time_embedding = TimeEmbedding(TIME_CHANNELS, 2 * TIME_CHANNELS)
        self.time4, self.time8, self.time16 = (nn.Linear(2 * TIME_CHANNELS, 3 * w) for w in (width4, width8, width))
        self.token_projection = nn.Linear(token_dim, width)
        self.head = nn.Conv2d(48, width4, 3, padding=1)
        self.down4 = nn.ModuleList(Block(width4, 2 * width4) for _ in range(blocks4[0]))
        self.to8 = nn.Conv2d(4 * width4, width8, 1)
        self.down8 = nn.ModuleList(Block(width8, 2 * width8) for _ in range(blocks8[0]))
        self.to16 = nn.Conv2d(4 * width8, width, 1)
        self.trunk = nn.ModuleList(Block(width, 2 * width) for _ in range(layers))
        self.attention = nn.ModuleDict({str(i): TokenAttention(width, heads) for i in range(0, layers, 3)})
        self.from16 = nn.Conv2d(width, 4 * width8, 1)
        self.up8 = nn.ModuleList(Block(width8, 2 * width8) for _ in range(blocks8[1]))
        self.from8 = nn.Conv2d(width8, 4 * width4, 1)
        self.up4 = nn.ModuleList(Block(width4, 2 * width4) for _ in range(blocks4[1]))
        self.tail = nn.Conv2d(width4, 48, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, signal: Tensor, tokens: Tensor) -> Tensor:
        time = F.silu(self.time_embedding(time_features(t.expand(len(x_t)), TIME_CHANNELS).to(x_t.dtype)))
        time4, time8, time16 = self.time4(time), self.time8(time), self.time16(time)
        tokens = self.token_projection(tokens)
        at4 = self.head(F.pixel_unshuffle(F.pixel_shuffle(x_t, 8), 4))
        for block in self.down4:
            at4 = block(at4, time4)
        at8 = self.to8(F.pixel_unshuffle(at4, 2))
        for block in self.down8:
            at8 = block(at8, time8)
        x = self.to16(F.pixel_unshuffle(at8, 2))
        for i, block in enumerate(self.trunk):
            if str(i) in self.attention:
                x = self.attention[str(i)](x, tokens)
            x = block(x, time16)
        x = at8 + F.pixel_shuffle(self.from16(x), 2)
        for block in self.up8:
            x = block(x, time8)
        x = at4 + F.pixel_shuffle(self.from8(x), 2)
        for block in self.up4:
            x = block(x, time4)
        out = F.pixel_unshuffle(F.pixel_shuffle(self.tail(normalize(x)), 4), 8)
        return x_t * signal.view(-1, 1, 1, 1).to(x_t.dtype) + out


def normalize(x: Tensor) -> Tensor:
    """(b, c, h, w) with mean 0 and deviation 1 over the channels of every place."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
