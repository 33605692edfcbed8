"""A denoiser in an autoencoder's latent space (Rombach et al. 2022), as the contract of a backbone wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from priorcodec import Condition, LatentSpace


def at_time(alphas: Tensor, t: Tensor) -> Tensor:
    """Rows of `alphas` (steps,) at fractional times t (b,), clamped to the valid range -> (b,)."""
    t = t.to(alphas.device, torch.float32).clamp(0, len(alphas) - 1)
    low = t.floor().long()
    high = (low + 1).clamp(max=len(alphas) - 1)
    return torch.lerp(alphas[low], alphas[high], t - low)


class LatentDiffusion(nn.Module):
    """module: the denoiser; vae: the autoencoder; alphas: cumulative signal fractions (1000,) of its training.

    As an nn.Module it moves with `.to(device)`; leave the dtype to `build`, the autoencoder may have its own.
    """

    def __init__(
        self, module: nn.Module, vae: Any, alphas: Tensor, latent: LatentSpace, predict: Callable[..., Tensor]
    ):
        super().__init__()
        self.module = module
        self.vae = vae
        self.latent = latent
        self._predict = predict
        self.alphas: Tensor
        self.register_buffer("alphas", alphas.float(), persistent=False)
        self.requires_grad_(False).eval()

    def alpha_bar(self, t: Tensor) -> Tensor:
        """t (b,) in [0, 999], fractions interpolated -> (b,)."""
        return at_time(self.alphas, t)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        dtype, tokens, pooled = next(self.module.parameters()).dtype, condition.tokens, condition.pooled
        assert tokens is not None  # for the type checker: every model here has a text encoder's width
        vector = None if pooled is None else pooled.to(dtype)
        output = self._predict(self.module, x_t.to(dtype), t, tokens.to(dtype), vector)
        return output[:, : self.latent.channels].to(x_t.dtype)  # a learned variance comes behind the mean

    def to_latents(self, x: Tensor) -> Tensor:
        raw = self.vae.encode(x.to(self.vae.dtype)).latent_dist.mode()
        return ((raw - self.latent.shift) * self.latent.scale).to(x.dtype)

    def to_pixels(self, z: Tensor) -> Tensor:
        raw = z / self.latent.scale + self.latent.shift
        return self.vae.decode(raw.to(self.vae.dtype)).sample.to(z.dtype)

    def slice_pixels(self) -> None:
        """Decode one image of a batch after the other: less memory, the same result."""
        self.vae.enable_slicing()

    def tile_pixels(self) -> None:
        """Decode large images in overlapping tiles: much less memory, faint differences at the seams."""
        self.vae.enable_tiling()
