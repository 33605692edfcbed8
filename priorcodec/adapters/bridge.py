"""The latent bridge: what the file says -> the backbone's latent ("generated-domain latent prediction").

    preview = g_s(y_hat) --unshuffle--> 3x3 --> blocks @stride/2 --unshuffle 2--> 1x1 --+--> blocks = trunk --3x3 (zero)--> z_hat
    y_hat @16, quality ------------------------------------------------ 1x1 (zero) -----+
Starting from the auxiliary decoder's preview means that the bridge has to learn what the backbone's autoencoder does to a
image, not the decoding of y_hat a second time; y_hat itself comes in beside it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from priorcodec.backbones.spec import LatentSpace
from priorcodec.core.errors import AdapterError
from priorcodec.core.transforms import STRIDE, blocks


class LatentBridge(nn.Module):
    """y_hat (b, m, h, w) at stride 16, quality (b,), preview (b, 3, 16h, 16w) -> z_hat (b, c, h', w') on the latent grid,
    and the features it was made from, trunk (b, width, h', w').

    A fresh bridge answers with the mean latent everywhere.
    Args:
        m: channels of y_hat; levels: of the encoder; latent: the backbone's space, stride a power of two up to 64;
        width, depth: channels and residual blocks on the latent grid; fine_width, fine_depth: at half that stride.
    """

    def __init__(
        self, m: int, levels: int, latent: LatentSpace, *, width: int, depth: int, fine_width: int, fine_depth: int
    ):
        super().__init__()
        if latent.stride & (latent.stride - 1) or not 1 <= latent.stride <= 64:
            raise AdapterError(f"latent stride is {latent.stride}, wanted a power of two from 1 to 64")
        self.levels = levels
        second = min(2, latent.stride)
        first = latent.stride // second
        self.head = nn.Sequential(nn.PixelUnshuffle(first), nn.Conv2d(3 * first**2, fine_width, 3, padding=1))
        self.fine = blocks(fine_width, fine_depth)
        self.down = nn.Sequential(nn.PixelUnshuffle(second), nn.Conv2d(fine_width * second**2, width, 1))
        self.side = _Resample(m + 1, width, latent.stride)
        self.coarse = blocks(width, depth)
        self.tail = nn.Conv2d(width, latent.channels, 3, padding=1)
        for conv in (self.side.conv, self.tail):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(cast(Tensor, conv.bias))
        self.register_buffer("mean", torch.tensor(latent.mean, device="cpu")[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(latent.std, device="cpu")[:, None, None], persistent=False)

    def forward(self, y_hat: Tensor, quality: Tensor, preview: Tensor) -> tuple[Tensor, Tensor]:
        plane = (quality / (self.levels - 1)).view(-1, 1, 1, 1).expand(-1, 1, *y_hat.shape[-2:])
        side = self.side(torch.cat([y_hat, plane.to(y_hat)], 1))
        trunk = self.coarse(self.down(self.fine(self.head(preview))) + side)
        return self.mean + self.std * self.tail(trunk), trunk


class StatisticsHead(nn.Module):
    """What quantization took from the latent's statistics, predicted: 0 bits. A fresh head predicts z_hat's own.

    z_hat (b, c, h, w), trunk (b, width, h, w) -> mean, std (b, c). Learns without moving the bridge.
    """

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z_hat: Tensor, trunk: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(*self.measure(z_hat, trunk))

    @staticmethod
    def measure(z_hat: Tensor, trunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the prediction is made from: mean and standard deviation of z_hat (b, c), mean of the trunk (b, width)."""
        z = z_hat.detach().float()
        return z.mean((2, 3)), z.std((2, 3), correction=0), trunk.detach().float().mean((2, 3))

    def predict(self, mean: Tensor, std: Tensor, trunk: Tensor) -> tuple[Tensor, Tensor]:
        """From what `measure` found."""
        shift, log_gain = self.linear(trunk).float().chunk(2, 1)
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
