"""The torch part of `nano_dit`, apart so that listing backbones loads no torch."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed_from_grid
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from torch import Tensor


class Patches(PatchEmbed):
    """Positions count patches from `origin` (row, column) at any image size.

    The class it extends stretches one grid over every image, so neighbors would be closer together in an image
    larger than the training crops. Training moves the origin about, which teaches distances instead of places.
    """

    origin = (0, 0)

    def forward(self, latent: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, h/2 * w/2, width)."""
        patches = self.proj(latent)
        rows, columns = (
            torch.arange(size, device=latent.device) + start
            for size, start in zip(patches.shape[-2:], self.origin, strict=True)
        )
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
        places = get_2d_sincos_pos_embed_from_grid(patches.shape[1], grid, output_type="pt")
        return patches.flatten(2).transpose(1, 2) + places.to(patches.dtype)


class Transformer(PixArtTransformer2DModel):
    """PixArt's transformer with those positions."""

    def __init__(self, **config: Any):
        super().__init__(**config)
        side = self.config["sample_size"]
        self.pos_embed = Patches(side, side, self.config["patch_size"], self.config["in_channels"], self.inner_dim)
