"""Entropy tables of a trained encoder: counted over training crops at every level, with the integer networks that will code."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from priorcodec.core.entropy.fitting import SymbolCounts
from priorcodec.core.entropy.frozen import FrozenEntropyModel
from priorcodec.core.entropy.tables import QUALITY_STEPS, gaussian_tables
from priorcodec.core.image import io as image_io
from priorcodec.core.transforms import ImageEncoder


@torch.inference_mode()
def count(model: ImageEncoder, crops: Iterable[Tensor]) -> SymbolCounts:
    """Count the symbols of some images.

    Args:
        model: The encoder.
        crops: uint8 (3, h, w), sides multiples of 64.
    """
    exact = FrozenEntropyModel(model.entropy.tables() | gaussian_tables(), model.config.certain)
    counts, device = SymbolCounts(), model.log_gain.device
    for crop in crops:
        y = model.g_a(image_io.to_range(crop[None].to(device)).contiguous(memory_format=torch.channels_last))
        for level in range(model.config.levels):
            scaled = model.scaled(y, torch.tensor([float(level)], device=device))
            y_q, z = (np.ascontiguousarray(part[0].float().cpu().numpy()) for part in scaled)
            exact.quantize(y_q, z, level * QUALITY_STEPS, counts.add)
    return counts
