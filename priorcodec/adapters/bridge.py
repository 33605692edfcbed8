"""The latent bridge: features of the file -> the backbone's latent ("generated-domain latent prediction").

y_hat @16, quality --3x3--> residual blocks @16 --pixel shuffle--> residual blocks @latent --3x3 (zero)--> z_hat
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from priorcodec.core.contract import LatentSpace
from priorcodec.core.errors import AdapterError
from priorcodec.core.transform import STRIDE, blocks


class LatentBridge(nn.Module):
    """y_hat (b, m, h, w) at stride 16 and quality (b,) -> z_hat (b, c, h', w') on the latent grid.

    A fresh bridge answers with the mean latent everywhere.
    Args:
        m: channels of y_hat; levels: of the encoder; latent: the backbone's space, stride a power of two up to 64;
        width, depth: channels and residual blocks at stride 16; fine_width, fine_depth: on the latent grid.
    """

    def __init__(
        self, m: int, levels: int, latent: LatentSpace, *, width: int, depth: int, fine_width: int, fine_depth: int
    ):
        super().__init__()
        if latent.stride & (latent.stride - 1) or not 1 <= latent.stride <= 64:
            raise AdapterError(f"latent stride is {latent.stride}, wanted a power of two from 1 to 64")
        self.levels = levels
        self.head = nn.Conv2d(m + 1, width, 3, padding=1)
        self.coarse = blocks(width, depth)
        self.resample: nn.Module
        if latent.stride <= STRIDE:
            ratio = STRIDE // latent.stride
            self.resample = nn.Sequential(nn.Conv2d(width, fine_width * ratio**2, 1), nn.PixelShuffle(ratio))
        else:
            ratio = latent.stride // STRIDE
            self.resample = nn.Sequential(nn.PixelUnshuffle(ratio), nn.Conv2d(width * ratio**2, fine_width, 1))
        self.fine = blocks(fine_width, fine_depth)
        self.tail = nn.Conv2d(fine_width, latent.channels, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(cast(Tensor, self.tail.bias))
        self.register_buffer("mean", torch.tensor(latent.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(latent.std)[:, None, None], persistent=False)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        plane = (quality / (self.levels - 1)).view(-1, 1, 1, 1).expand(-1, 1, *y_hat.shape[-2:])
        coarse = self.coarse(self.head(torch.cat([y_hat, plane.to(y_hat)], 1)))
        return self.mean + self.std * self.tail(self.fine(self.resample(coarse)))
