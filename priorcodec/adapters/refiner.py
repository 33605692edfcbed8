"""Detail: what the preview shows and the backbone's image lost on its way through a latent, added to that image.

    image, preview - image --unshuffle 4--> 3x3 --+--> blocks --> 3x3 (zero) --shuffle 4--> correction --added to the image
    noise at stride 4 ------------------------ 3x3 ---+
A latent autoencoder caps fidelity whatever the file says; the auxiliary decoder has no such cap, but blurs. Residual between
both decoders as in the dual-branch decoder of StableCodec (arXiv 2506.21977), here in pixels, so that it suits every backbone.
The noise is what texture can be made of where the file says nothing (as in StyleGAN, Karras et al., CVPR 2019): without it,
convolutions answer a flat input with a pattern that repeats.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from priorcodec.core.transforms import blocks

STRIDE = 4


class Detail(nn.Module):
    """A fresh one adds nothing.

    Args:
        channels, depth: at stride 4; grain: channels of the noise; levels: of the encoder.
    """

    def __init__(self, channels: int, depth: int, grain: int, levels: int):
        super().__init__()
        self.levels = levels
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(STRIDE), nn.PixelShuffle(STRIDE)
        self.head = nn.Conv2d(6 * STRIDE**2 + 1, channels, 3, padding=1)
        self.grain = nn.Conv2d(grain, channels, 3, padding=1, bias=False) if grain else None
        self.blocks = blocks(channels, depth)
        self.tail = nn.Conv2d(channels, 3 * STRIDE**2, 3, padding=1)
        if self.grain is not None:
            nn.init.zeros_(self.grain.weight)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(cast(Tensor, self.tail.bias))

    def forward(self, x: Tensor, preview: Tensor, quality: Tensor, noise: Tensor | None = None) -> Tensor:
        """x, preview (b, 3, H, W), nominally in [-1, 1], sides multiples of 4; quality (b,) in levels; noise: standard normal
        (b, grain, H/4, W/4), None for no grain -> x with detail."""
        both = self.unshuffle(torch.cat([x, preview - x], 1))
        plane = (quality / (self.levels - 1)).view(-1, 1, 1, 1).expand(-1, 1, *both.shape[-2:])
        hidden = self.head(torch.cat([both, plane.to(both)], 1))
        if self.grain is not None and noise is not None:
            hidden = hidden + self.grain(noise)
        return x + self.shuffle(self.tail(self.blocks(hidden)))
