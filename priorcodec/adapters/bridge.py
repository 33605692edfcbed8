"""The bridge from the file to the backbone's latent ("latent prediction in the generative domain", arXiv 2509.13768).

    preview = g_p(y_hat) --unshuffle--> 3x3 --> stem @stride/2 --unshuffle 2--> 1x1 --+--> body = features --3x3 (zero)--> z_hat
    y_hat @16, quality ---------------------------------------------- 1x1 (zero) -----+

The auxiliary decoder's preview is the input, so the bridge only learns what the backbone's autoencoder does to an image, not to
decode y_hat a second time; y_hat is a second input.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.backbones.spec import LatentSpace
from priorcodec.core.container import STRIDE
from priorcodec.core.errors import AdapterError
from priorcodec.core.transforms import blocks


class LatentPredictor(nn.Module):
    """Predicts the backbone's latent. A fresh one predicts the mean latent everywhere, or the preview where z is pixels.

    Args:
        m: Channels of y_hat.
        levels: Quality levels of the encoder.
        latent: The backbone's latent space; its stride is a power of two up to 64.
        width: Channels on the latent grid.
        depth: Residual blocks on the latent grid.
        stem_width: Channels at half the latent's stride.
        stem_depth: Residual blocks at half the latent's stride.

    Raises:
        AdapterError: Another stride.
    """

    def __init__(
        self, m: int, levels: int, latent: LatentSpace, *, width: int, depth: int, stem_width: int, stem_depth: int
    ):
        super().__init__()
        if latent.stride & (latent.stride - 1) or not 1 <= latent.stride <= 64:
            raise AdapterError(f"latent stride is {latent.stride}, wanted a power of two from 1 to 64")
        self.levels, self.latent = levels, latent
        second = min(2, latent.stride)
        first = latent.stride // second
        self.head = nn.Sequential(nn.PixelUnshuffle(first), nn.Conv2d(3 * first**2, stem_width, 3, padding=1))
        self.stem = blocks(stem_width, stem_depth)
        self.down = nn.Sequential(nn.PixelUnshuffle(second), nn.Conv2d(stem_width * second**2, width, 1))
        self.y_branch = _Resample(m + 1, width, latent.stride)
        self.body = blocks(width, depth)
        self.tail = nn.Conv2d(width, latent.channels, 3, padding=1)
        for conv in (self.y_branch.conv, self.tail):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(cast(Tensor, conv.bias))
        for name, values in (("mean", latent.mean), ("std", latent.std)):  # on the CPU even while "meta" is the default
            self.register_buffer(
                name, torch.tensor(values, dtype=torch.float32, device="cpu")[:, None, None], persistent=False
            )

    def forward(self, y_hat: Tensor, quality: Tensor, preview: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the latent of a batch.

        Args:
            y_hat: Decoded features (b, m, h, w) at stride 16.
            quality: In levels (b,).
            preview: (b, 3, 16 h, 16 w), nominally in [-1, 1].

        Returns:
            z_hat (b, c, h', w') on the latent grid, and the features it was made from (b, width, h', w').
        """
        plane = (quality / (self.levels - 1)).view(-1, 1, 1, 1).expand(-1, 1, *y_hat.shape[-2:])
        from_y = self.y_branch(torch.cat([y_hat, plane.to(y_hat)], 1))
        features = self.body(self.down(self.stem(self.head(preview))) + from_y)
        base = self.mean
        if self.latent.pixels:
            base = (F.pixel_unshuffle(preview, self.latent.stride) - self.latent.shift) * self.latent.scale
        return base + self.std * self.tail(features), features


class MomentsHead(nn.Module):
    """Predicts the latent's mean and standard deviation before quantization, for renormalization.

    A fresh one predicts those of z_hat. Its gradients do not reach the bridge.

    Args:
        width: Channels of the bridge's features.
        channels: Channels of the latent.
    """

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z_hat: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """z_hat (b, c, h, w), features (b, width, h, w) -> mean, std (b, c)."""
        return self.predict(*self.measure(z_hat, features))

    @staticmethod
    def measure(z_hat: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of `predict`: mean and standard deviation of z_hat (b, c), mean of the features (b, width)."""
        z = z_hat.detach().float()
        return z.mean((2, 3)), z.std((2, 3), correction=0), features.detach().float().mean((2, 3))

    def predict(self, mean: Tensor, std: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Results of `measure` -> predicted mean and standard deviation (b, c)."""
        shift, log_gain = self.linear(features).float().chunk(2, 1)
        return mean + std * shift, std * log_gain.clamp(-1, 1).exp()


class _Resample(nn.Module):
    """(b, c_in, h, w) at stride 16 -> (b, c_out, h', w') at `stride`, by one 1x1 convolution and a (un)shuffle."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        down, up = max(1, stride // STRIDE), max(1, STRIDE // stride)
        self.before, self.after = nn.PixelUnshuffle(down), nn.PixelShuffle(up)
        self.conv = nn.Conv2d(c_in * down**2, c_out * up**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.conv(self.before(x)))
