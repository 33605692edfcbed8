"""Statistics of an image that a file can carry, and moving a decoded image to them (renorm=written).

Mean and standard deviation of JPEG's full-range Y, Cb, Cr (BT.601; JFIF 1.02, page 3): they describe the image and no backbone's
latent, so any backbone's result can be moved to them. Eight bytes, little endian:

| bytes | field | scale |
|---|---|---|
| 2 | mean of Y | 0 to 255 in steps of 255/65535 |
| 2 | std of Y | 0 to 127.5 in steps of 127.5/65535 |
| 1 + 1 | means of Cb, Cr | k = byte - 128: 128 + sign(k) 128 (k/128)^2, fine near gray |
| 1 + 1 | std of Cb, Cr | 127.5 (byte/255)^2, fine near 0 |
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from priorcodec.core.errors import ImageError, StreamError
from priorcodec.core.moments import merge_moments
from priorcodec.core.tiling import Array, namespace

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

GAIN = (0.5, 2.0)  # of `apply`: more would blow up the decoder's own artifacts
FLAT = 0.5  # standard deviation in levels of 255: below it there is no contrast to scale
TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
CHUNK_SIZE = 3 << 22  # numbers of an image that are measured at a time: 96 MiB in float64
_BYTES = struct.Struct("<HHBBBB")


def measure_shown(bands: Sequence[Array]) -> tuple[Array, Array]:
    """Measure a decoded image as it would be shown, clamped.

    Args:
        bands: Its parts from top to bottom (b, 3, h, w), nominally in [-1, 1], torch's or numpy's.

    Returns:
        Mean and standard deviation (b, 3, 1, 1) of the whole in Y, Cb, Cr, in levels, without the 128 of Cb and Cr.
    """
    parts = []
    for band in bands:
        ycc = _shown(band)
        spread = namespace(ycc).std(ycc, axis=(2, 3), keepdims=True, correction=0)
        parts.append((ycc.shape[2], ycc.mean(axis=(2, 3), keepdims=True), spread))
    return merge_moments(parts)


def _shown(x: Array) -> Array:
    """(b, 3, h, w) in [-1, 1] -> Y, Cb - 128, Cr - 128 in levels."""
    xp = namespace(x)
    matrix = xp.asarray(TO_YCC, dtype=xp.float32, device=x.device)
    return xp.einsum("ij,bjhw->bihw", matrix, (xp.asarray(x, dtype=xp.float32).clip(-1, 1) + 1) * 127.5)


@dataclass(frozen=True, kw_only=True)
class ImageStatistics:
    """mean, std: of Y, Cb, Cr over the whole image, in levels: means 0 to 255, standard deviations 0 to 127.5."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def measure(cls, pixels: np.ndarray) -> ImageStatistics:
        """Of an image, uint8 (h, w, 3). Raises ImageError for another array."""
        import numpy as np

        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ImageError(f"got a {pixels.dtype} array of shape {pixels.shape}, wanted uint8 (h, w, 3)")
        chunks = np.array_split(pixels.reshape(-1, 3), -(-pixels.size // CHUNK_SIZE))
        parts = []
        for chunk in chunks:
            ycc = chunk @ np.array(TO_YCC).T + (0, 128, 128)
            parts.append((len(chunk), ycc.mean(0), ycc.std(0)))
        mean, std = merge_moments(parts)
        (y, cb, cr), (y_std, cb_std, cr_std) = mean.tolist(), std.tolist()
        return cls(mean=(y, cb, cr), std=(y_std, cb_std, cr_std))

    @classmethod
    def unpack(cls, data: bytes) -> ImageStatistics:
        """The eight bytes of `pack` -> what they stand for. Raises StreamError for another number of bytes."""
        if len(data) != _BYTES.size:
            raise StreamError(f"the statistics have {len(data)} bytes, wanted {_BYTES.size}: encode the image again")
        y, y_std, cb, cr, cb_std, cr_std = _BYTES.unpack(data)
        return cls(
            mean=(255 * y / 65535, _chroma(cb), _chroma(cr)),
            std=(127.5 * y_std / 65535, 127.5 * (cb_std / 255) ** 2, 127.5 * (cr_std / 255) ** 2),
        )

    def pack(self) -> bytes:
        """The eight bytes of the file; values beyond their range are clamped to it."""
        chroma = [_clamp(128 + math.copysign(128 * math.sqrt(abs(m - 128) / 128), m - 128), 255) for m in self.mean[1:]]
        spread = [_clamp(255 * math.sqrt(max(s, 0) / 127.5), 255) for s in self.std[1:]]
        y, y_std = _clamp(self.mean[0] / 255 * 65535, 65535), _clamp(self.std[0] / 127.5 * 65535, 65535)
        return _BYTES.pack(y, y_std, *chroma, *spread)

    def apply(self, x: Array, shown: tuple[Array, Array] | None = None) -> Array:
        """Move a decoded image to these statistics.

        Contrast changes by 0.5 to 2 at most, not at all where the image is flat.

        Args:
            x: The image in its true size (b, 3, h, w), nominally in [-1, 1], torch's or numpy's.
            shown: `measure_shown` of the image that x is a band of, None where x is all of it.

        Returns:
            Of the same type; what it has beyond [-1, 1] is for the caller to clamp.
        """
        xp = namespace(x)

        def levels(values: Any) -> Array:
            return xp.asarray(values, dtype=xp.float32, device=x.device)

        at, spread = measure_shown([x]) if shown is None else shown
        mean, std = (levels(values).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        gain = xp.where(spread < FLAT, levels(1.0), (std / spread.clip(FLAT)).clip(*GAIN))
        moved = (_shown(x) - at) * gain + mean - levels([0, 128, 128]).reshape(1, 3, 1, 1)
        rgb = xp.einsum("ij,bjhw->bihw", xp.linalg.inv(levels(TO_YCC)), moved)
        return xp.asarray(rgb / 127.5 - 1, dtype=x.dtype)

    def __str__(self) -> str:
        parts = zip(("Y", "Cb", "Cr"), self.mean, self.std, strict=True)
        return ", ".join(f"{name} {mean:.1f} +- {std:.1f}" for name, mean, std in parts)


def _chroma(byte: int) -> float:
    k = byte - 128
    return 128 + math.copysign((k / 128) ** 2 * 128, k)


def _clamp(value: float, top: int) -> int:
    return min(max(round(value), 0), top)
