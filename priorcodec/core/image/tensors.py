"""8-bit pixels <-> tensors, and padding to the codec's grid. torch is imported inside the functions that need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from priorcodec.core.errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (h, w, 3) -> float32 (1, 3, h, w) in [-1, 1]."""
    return to_range(to_planes(pixels))


def to_planes(pixels: np.ndarray) -> Tensor:
    """uint8 (h, w, 3) -> uint8 (1, 3, h, w), the same memory where torch can use it: a large image is not copied."""
    import torch

    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]


def to_range(planes: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [-1, 1]."""
    return planes.float() / 127.5 - 1


def to_pixels(x: Tensor) -> np.ndarray:
    """Clamp, then round once, halves up.

    Args:
        x: (1, 3, h, w) or (3, h, w), [-1, 1], any floating type.

    Returns:
        uint8 (h, w, 3).

    Raises:
        ImageError: Another shape, or a value that is not a number.
    """
    if x.ndim not in (3, 4) or x.shape[-3] != 3 or (x.ndim == 4 and x.shape[0] != 1):
        raise ImageError(f"got a tensor of shape {tuple(x.shape)}, wanted (1, 3, h, w) or (3, h, w)")
    x = x.detach().reshape(x.shape[-3:]).float()
    if bool(x.isnan().any()):
        raise ImageError("the image has values that are not numbers (NaN)")
    levels = ((x + 1) * 127.5).clamp(0, 255).add(0.5).floor()
    return np.ascontiguousarray(levels.byte().permute(1, 2, 0).cpu().numpy())


def pad(x: Tensor, multiple: int = 64) -> Tensor:
    """Mirror (b, c, h, w) at the right and the bottom until both sides are a multiple of `multiple`.

    Works for any size from 1x1: where the image is smaller than the padding the mirror image repeats; one pixel is
    simply repeated.
    """
    import torch

    for dim in (-2, -1):
        if x.shape[dim] % multiple:
            x = x.index_select(dim, torch.from_numpy(mirrored(x.shape[dim], multiple)).to(x.device))
    return x


def mirrored(size: int, multiple: int = 64) -> np.ndarray:
    """Which of `size` rows or columns each one of the padded image repeats."""
    index = np.arange(-(-size // multiple) * multiple) % max(2 * size - 2, 1)
    return np.minimum(index, 2 * size - 2 - index) if size > 1 else index


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., height, width), the top left corner: undoes `pad`. Raises ImageError where x is smaller."""
    if x.shape[-2] < height or x.shape[-1] < width:
        raise ImageError(
            f"cannot crop {x.shape[-1]}x{x.shape[-2]} to {width}x{height}: wanted at least as large an image"
        )
    return x[..., :height, :width]
