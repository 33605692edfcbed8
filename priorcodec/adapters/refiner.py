"""The residual refiner: adds to the backbone's image what the preview shows and the image lost on its way through a latent.

    image, preview - image --unshuffle 4--> 3x3 --+--> blocks --> 3x3 (zero) --shuffle 4--> correction --added to the image
    noise at stride 4 ------------------------ 3x3 ---+

A latent autoencoder limits fidelity whatever the file holds; the auxiliary decoder has no such limit, but blurs. A residual
between both decoders as in the dual-branch decoder of StableCodec (arXiv 2506.21977), here in pixels, so that it suits every
backbone. Texture that the file does not hold is made from the noise (as in StyleGAN, Karras et al., CVPR 2019): without it,
convolutions answer a flat input with a pattern that repeats.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from priorcodec.core.transforms import blocks

STRIDE = 4


class ResidualRefiner(nn.Module):
    """Corrects the backbone's image. A fresh one adds nothing.

    Args:
        channels: Channels at stride 4.
        depth: Residual blocks at stride 4.
        noise_channels: Channels of the noise, 0 for none.
        levels: Quality levels of the encoder.
    """

    def __init__(self, channels: int, depth: int, noise_channels: int, levels: int):
        super().__init__()
        self.levels = levels
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(STRIDE), nn.PixelShuffle(STRIDE)
        self.head = nn.Conv2d(6 * STRIDE**2 + 1, channels, 3, padding=1)
        self.noise = nn.Conv2d(noise_channels, channels, 3, padding=1, bias=False) if noise_channels else None
        self.blocks = blocks(channels, depth)
        self.tail = nn.Conv2d(channels, 3 * STRIDE**2, 3, padding=1)
        if self.noise is not None:
            nn.init.zeros_(self.noise.weight)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(cast(Tensor, self.tail.bias))

    def forward(self, x: Tensor, preview: Tensor, quality: Tensor, noise: Tensor | None = None) -> Tensor:
        """Refine a batch of images.

        Args:
            x: The backbone's images (b, 3, H, W), nominally in [-1, 1], sides multiples of 4.
            preview: The previews (b, 3, H, W).
            quality: In levels (b,).
            noise: Standard normal (b, noise_channels, H / 4, W / 4), None for no texture.

        Returns:
            The refined images (b, 3, H, W).
        """
        both = self.unshuffle(torch.cat([x, preview - x], 1))
        plane = (quality / (self.levels - 1)).view(-1, 1, 1, 1).expand(-1, 1, *both.shape[-2:])
        hidden = self.head(torch.cat([both, plane.to(both)], 1))
        if self.noise is not None and noise is not None:
            hidden = hidden + self.noise(noise)
        return x + self.shuffle(self.tail(self.blocks(hidden)))
