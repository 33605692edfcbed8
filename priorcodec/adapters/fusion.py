"""Attentive fusion: hidden states of the denoiser attend to features of the file.

    features of the bridge --Pyramid, once per image--> features at the stride of each site
    hidden state at a site --q--> windowed attention over the features there --gate(t)--> added to the hidden state
Forward hooks by module path treat U-Nets and transformers alike; only `add_to_hidden_state` distinguishes their outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.backbones.spec import FusionSite
from priorcodec.core.errors import BackboneError

HEAD = 32  # channels of one attention head, at most
TIME_CHANNELS = 64


class Pyramid(nn.Module):
    """The bridge's features (b, width, h, w) on the latent grid -> {stride: (b, channels, ceil(h/stride), ceil(w/stride))}."""

    def __init__(self, width: int, channels: int, strides: Iterable[int]):
        super().__init__()
        self.levels = nn.ModuleDict({str(s): nn.Conv2d(width, channels, 3, padding=1) for s in sorted(set(strides))})

    def forward(self, features: Tensor) -> dict[int, Tensor]:
        return {int(s): conv(F.avg_pool2d(features, int(s), ceil_mode=True)) for s, conv in self.levels.items()}


class Fusion(nn.Module):
    """Windowed cross-attention through a narrow bottleneck, with a gate that depends on time. A fresh one adds nothing.

    Windows and relative position bias as in Swin (Liu et al. 2021); the bias initially favors nearby positions.

    Args:
        channels: Channels of the hidden state.
        bottleneck: Channels of query, key and value.
        window: Side of a window in positions.
        shift: Offset of the windows, so that neighboring sites do not share their borders.
    """

    def __init__(self, channels: int, bottleneck: int, *, window: int, shift: int):
        super().__init__()
        self.window, self.shift = window, shift
        self.heads = max(1, bottleneck // HEAD)
        self.query = nn.Linear(channels, bottleneck)
        self.key_value = nn.Linear(bottleneck, 2 * bottleneck)
        self.gate = nn.Linear(TIME_CHANNELS, bottleneck)
        self.out = nn.Linear(bottleneck, channels, bias=False)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        line = torch.arange(1 - window, window, device="cpu").float()  # on "meta" it would import torch's compiler
        self.bias = nn.Parameter(-torch.hypot(line[:, None], line)[None].repeat(self.heads, 1, 1))

    def forward(self, hidden: Tensor, features: Tensor, t: Tensor) -> Tensor:
        """hidden (b, h, w, channels), features (b, bottleneck, h', w'), t (b,) -> what to add, like hidden."""
        h, w = hidden.shape[1:3]
        if features.shape[-2:] != (h, w):  # an odd side, halved by another rule than ours
            features = F.interpolate(features, (h, w), mode="bilinear")
        x = F.layer_norm(hidden.float(), hidden.shape[-1:])
        q = self._windows(self.query(x))
        k, v = (self._windows(part) for part in self.key_value(features.permute(0, 2, 3, 1)).chunk(2, -1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias().to(q.dtype))
        gate = self.gate(_time_features(t))[:, None, None]
        return self.out(self._merge_windows(y, *hidden.shape[:3]) * gate).to(hidden.dtype)

    def _pad(self, h: int, w: int) -> tuple[int, int, int, int]:
        """Left, right, top, bottom, so that windows begin at -shift and cover everything."""
        return self.shift, -(w + self.shift) % self.window, self.shift, -(h + self.shift) % self.window

    def _windows(self, x: Tensor) -> Tensor:
        """(b, h, w, c) -> (b * windows, heads, window^2, c / heads); the border is filled with zeros."""
        left, right, top, bottom = self._pad(*x.shape[1:3])
        x = F.pad(x, (0, 0, left, right, top, bottom))
        b, h, w, c = x.shape
        n = self.window
        x = x.view(b * h // n, n, w // n, n, self.heads, c // self.heads)  # runtimes for phones take at most six sides
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, self.heads, n * n, c // self.heads)

    def _merge_windows(self, x: Tensor, b: int, h: int, w: int) -> Tensor:
        """The inverse of `_windows`."""
        left, right, top, bottom = self._pad(h, w)
        rows, columns, n = (top + h + bottom) // self.window, (left + w + right) // self.window, self.window
        x = x.view(b * rows, columns, self.heads, n, n, -1).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(b, rows * n, columns * n, -1)[:, top : top + h, left : left + w]

    def _bias(self) -> Tensor:
        """(heads, window^2, window^2): by the offset from query to key."""
        position = torch.arange(self.window, device=self.bias.device)
        offset = position[None] - position[:, None] + self.window - 1
        area = self.window**2
        return self.bias[:, offset[:, None, :, None], offset[None, :, None, :]].reshape(self.heads, area, area)


def add_to_hidden_state(output: Any, add: Callable[[Tensor], Tensor], site: FusionSite, size: tuple[int, int]) -> Any:
    """Add to the hidden state inside a module's output.

    Args:
        output: (b, c, h, w) of a convolution or U-Net block; a tuple of it and skip tensors, which stay as they are, of a
            U-Net's down block; or (b, h * w, c) of a transformer block.
        add: Hidden state (b, h, w, c) -> what to add to it.
        site: The module.
        size: Height and width of the latent.

    Returns:
        The output in the same form.

    Raises:
        BackboneError: The output has none of these forms.
    """
    hidden, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
    if hidden.ndim == 4:
        hidden = hidden + add(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    elif hidden.ndim == 3:
        grid = [math.ceil(side / site.stride) for side in size]
        if hidden.shape[1] != math.prod(grid):
            raise BackboneError(
                f"fusion site {site.module} answers {hidden.shape[1]} tokens for a latent of {size[0]}x{size[1]}, wanted "
                f"{math.prod(grid)} at stride {site.stride}: correct the site's stride"
            )
        hidden = hidden + add(hidden.unflatten(1, grid)).flatten(1, 2)
    else:
        raise BackboneError(
            f"fusion site {site.module} answers {hidden.ndim} dimensions, wanted 3 or 4: choose another"
        )
    return hidden if rest is None else (hidden, *rest)


def _time_features(t: Tensor) -> Tensor:
    """t (b,) in [0, 999] -> sines and cosines (b, TIME_CHANNELS) (Vaswani et al. 2017)."""
    frequency = torch.exp(
        -math.log(1000) * torch.arange(TIME_CHANNELS // 2, dtype=torch.float32, device=t.device) / (TIME_CHANNELS // 2)
    )
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)
