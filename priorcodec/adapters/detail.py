"""Detail: features of the file enter the backbone's latent decoder, past the latent, which holds less than the file says.

    trunk of the bridge --1x1--> detail map on the latent grid
    hidden state of the decoder there --(beside the map)--> 3x3, blocks, 1x1 (zero) --added to the hidden state
Skip connections into a frozen latent decoder, as in img2img-turbo (Parmar et al. 2024, arXiv 2403.12036).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from priorcodec.core.errors import BackboneError
from priorcodec.core.transform import blocks

DEPTH = 1


class Detail(nn.Module):
    """A fresh one adds nothing.

    Args:
        width: channels of the trunk; channels: of the hidden state; bottleneck: of the map and all that mixes it in.
    """

    def __init__(self, width: int, channels: int, bottleneck: int):
        super().__init__()
        self.reduce = nn.Conv2d(width, bottleneck, 1)
        self.mix = nn.Conv2d(channels + bottleneck, bottleneck, 3, padding=1)
        self.blocks = blocks(bottleneck, DEPTH)
        self.out = nn.Conv2d(bottleneck, channels, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def map(self, trunk: Tensor) -> Tensor:
        """trunk (b, width, h, w) -> (b, bottleneck, h, w), once per picture."""
        return self.reduce(trunk)

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        """hidden (b, channels, h, w), features of `map` -> hidden with detail.

        Raises:
            BackboneError: the hidden state is not on the latent grid.
        """
        if hidden.shape[-2:] != features.shape[-2:]:
            raise BackboneError(
                f"the detail site answers on {tuple(hidden.shape[-2:])} for a latent of {tuple(features.shape[-2:])}: "
                "choose a module on the latent grid, and let the latent decoder not tile by itself"
            )
        x = self.mix(torch.cat([hidden.to(features.dtype), features], 1))
        return hidden + self.out(self.blocks(x)).to(hidden.dtype)
