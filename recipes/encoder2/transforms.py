"""The package's encoder with what training from cached features and fitting tables need: y apart, symbols and indices kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from priorcodec.core import precision
from priorcodec.core.entropy.entropy_model import relaxed_bits
from priorcodec.core.entropy.integer import round_ste
from priorcodec.core.transforms import ImageEncoder


@dataclass(frozen=True, kw_only=True)
class Coded2:
    """One training pass: y_hat (b, m, h, w), bits of latent and hyper-latent (b,), symbols, index (b, m, h, w)."""

    y_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor
    symbols: Tensor
    index: Tensor
    z_symbols: Tensor
    z_index: Tensor


class ImageEncoder2(ImageEncoder):
    """`ImageEncoder`, coding y instead of images."""

    def code_latent(
        self,
        y: Tensor,
        quality: Tensor,
        *,
        autocast: bool = False,
        uniform: Callable[[Tensor], Tensor] = torch.rand_like,
        bits: Callable[..., Tensor] = relaxed_bits,
        certain: int | None = None,
    ) -> Coded2:
        """y (b, m, h, w), sides multiples of 4 -> y_hat as a decoder reads it and its bits.

        bits: (offset, index, uniform) -> bits of each value; `relaxed_bits` to train.
        """
        cast = precision.autocast(y.device, enabled=autocast)
        with cast:
            y_q, z = self.scaled(y, quality)
        z, y_q = z.float(), y_q.float()
        z_mean, z_index = self.entropy.hyper_parameters(quality)
        z_index = z_index.expand_as(z)
        z_symbols = round_ste(z - z_mean)
        z_bits = bits(z - z_mean, z_index, uniform)
        with cast:
            phi = self.entropy.features(z_symbols + z_mean, quality)
            symbols, mean, index = self.entropy(y_q, phi, certain=certain)
        y_bits = bits(y_q - mean, index, uniform)
        return Coded2(
            y_hat=self.dequantize(symbols + mean, quality),
            y_bits=y_bits.sum((1, 2, 3)),
            z_bits=z_bits.sum((1, 2, 3)),
            symbols=symbols,
            index=index,
            z_symbols=z_symbols,
            z_index=z_index,
        )

    def analyze(self, x: Tensor, *, autocast: bool = False) -> Tensor:
        """x (b, 3, H, W) in [-1, 1], sides multiples of 64 -> y."""
        with precision.autocast(x.device, enabled=autocast):
            return self.g_a(x).float()
