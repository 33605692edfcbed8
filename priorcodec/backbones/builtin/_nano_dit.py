"""The torch part of `nano_dit`: the transformer of PixArt (Chen et al. 2023), small, with positions that fit any image size.

x_t --2x2 patches + positions--> blocks, modulated by time, with attention to the tokens --> patches --> output
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.backbones.builtin._nano_layers import Attention, FeedForward, TimeEmbedding, normal, time_features

TIME_CHANNELS = 256
EPS = 1e-6


class Patches(nn.Module):
    """(b, c, h, w) -> patches with their positions (b, h/2 * w/2, width).

    Positions count patches from `origin` (row, column) at any image size. PixArt stretches one grid over every image, so
    neighbors would be closer together in an image larger than the training crops. Training moves the origin about, which
    teaches distances instead of positions.
    """

    origin = (0, 0)

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.width = width
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, latent: Tensor) -> Tensor:
        patches = self.proj(latent)
        rows, columns = (
            torch.arange(size, device="cpu") + start
            for size, start in zip(patches.shape[-2:], self.origin, strict=True)
        )
        grid = torch.meshgrid(columns, rows, indexing="xy")
        positions = torch.cat([_position_features(part.flatten(), self.width // 2) for part in grid], 1)
        return patches.flatten(2).transpose(1, 2) + positions.to(patches.dtype).to(patches.device)


def _position_features(position: Tensor, channels: int) -> Tensor:
    """position (n,) -> sines and cosines (n, channels), float64; on the CPU, since not every device has float64."""
    frequency = 1 / 10000 ** (torch.arange(channels // 2, dtype=torch.float64, device="cpu") / (channels / 2))
    angle = torch.outer(position.double(), frequency)
    return torch.cat([angle.sin(), angle.cos()], 1)


class TimeModulation(nn.Module):
    """t (b,) -> six shifts, scales and gates for every block (b, 6 * width), and the embedding (b, width) they are made from."""

    def __init__(self, width: int):
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": TimeEmbedding(TIME_CHANNELS, width)})
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        embedding = self.emb["timestep_embedder"](time_features(t, TIME_CHANNELS).to(dtype))
        return self.linear(F.silu(embedding)), embedding


class Projection(nn.Module):
    """Tokens (b, n, token width) -> (b, n, width)."""

    def __init__(self, c_in: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(c_in, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


class Block(nn.Module):
    """Self-attention and feed-forward modulated by time (adaLN-single); attention to the tokens between them is not."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn1 = Attention(width, heads)
        self.attn2 = Attention(width, heads)
        self.ff = FeedForward(width)
        self.scale_shift_table = nn.Parameter(normal(6, width, std=width**-0.5))

    def forward(self, x: Tensor, tokens: Tensor, time: Tensor) -> Tensor:
        parts = (self.scale_shift_table[None] + time.reshape(len(x), 6, -1)).chunk(6, 1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        x = gate_1 * self.attn1(_normalize(x) * (1 + scale_1) + shift_1) + x
        x = self.attn2(x, tokens) + x
        return gate_2 * self.ff(_normalize(x) * (1 + scale_2) + shift_2) + x


class Transformer(nn.Module):
    """x_t (b, channels, h, w) of even sides, t (b,), tokens (b, n, token_dim) -> output like x_t.

    Args:
        channels: Channels of x_t.
        width: Channels of the blocks.
        layers: Number of blocks.
        heads: Attention heads.
        token_dim: Width of the tokens.
        patch: Side of a patch in latent positions.
    """

    def __init__(self, *, channels: int, width: int, layers: int, heads: int, token_dim: int, patch: int):
        super().__init__()
        self.patch = patch
        self.pos_embed = Patches(channels, width, patch)
        self.transformer_blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.scale_shift_table = nn.Parameter(normal(2, width, std=width**-0.5))
        self.proj_out = nn.Linear(width, patch * patch * channels)
        self.adaln_single = TimeModulation(width)
        self.caption_projection = Projection(token_dim, width)

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        height, width = (side // self.patch for side in x_t.shape[-2:])
        x = self.pos_embed(x_t)
        time, embedding = self.adaln_single(t.expand(len(x_t)), x.dtype)
        tokens = self.caption_projection(tokens)
        for block in self.transformer_blocks:
            x = block(x, tokens, time)
        shift, scale = (self.scale_shift_table[None] + embedding[:, None]).chunk(2, 1)
        x = self.proj_out(_normalize(x) * (1 + scale) + shift)
        x = x.reshape(len(x_t), height, width, self.patch, self.patch, -1)
        return torch.einsum("nhwpqc->nchpwq", x).flatten(4, 5).flatten(2, 3)


def _normalize(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS)
