"""PriorCodec under CompressAI's calling convention, so that its evaluation code measures .gic files like its own models.

CompressAI (Begaint et al. 2020) evaluates any module with `compress` and `decompress`. It is not imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from priorcodec.core.errors import ConfigError
from priorcodec.core.rate_control import DEFAULT_QUALITY
from priorcodec.session import Session


class CompressAIModel(nn.Module):
    """A session as a model that CompressAI's `eval_model` and `inference` can call.

    The one string of an image is its whole .gic file, so the evaluation's bits per pixel count every byte of it.

    Args:
        session: What encodes and decodes; moving this module does not move it.
        quality: Of the files, in levels, 0 to 11.
        preview: Whether to decode with the auxiliary decoder, without a backbone.
    """

    def __init__(self, session: Session, *, quality: float = DEFAULT_QUALITY, preview: bool = False) -> None:
        super().__init__()
        self.session, self.quality, self.preview = session, quality, preview
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)  # its device is where images are expected

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Encode a batch.

        Args:
            x: Images (b, 3, h, w) in [0, 1]; rounded to 8 bits.

        Returns:
            "strings": a list with one list of b files; "shape": (h, w).

        Raises:
            ConfigError: `x` has another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ConfigError(f"got images of shape {tuple(x.shape)}, wanted (b, 3, h, w)")
        pixels = (x.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        files = [bytes(self.session.encode(image, self.quality)) for image in pixels]
        return {"strings": [files], "shape": tuple(x.shape[-2:])}

    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> dict[str, Tensor]:
        """Decode what `compress` returned.

        Args:
            strings: One list of files of one size.
            shape: Not needed: a file states its own size.

        Returns:
            "x_hat": images (b, 3, h, w) in [0, 1], on the module's device.

        Raises:
            StreamError: A file is damaged.
        """
        decode = self.session.preview if self.preview else self.session.decode
        images = np.stack([decode(file, output="np") for file in strings[0]])
        x_hat = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.anchor.device, torch.float32) / 255
        return {"x_hat": x_hat}
