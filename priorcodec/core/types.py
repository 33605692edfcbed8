"""The records that pass between the rooms: data only, no networks, no methods that compute. Importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from priorcodec.core.container import Container
    from priorcodec.core.statistics import ImageStatistics


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a whole file costs.

    Attributes:
        bytes: size of the file.
        bpp: bits per pixel of the true size.
        distortion: in squared 8-bit values.
        total: bpp + lambda * distortion.
    """

    bytes: int
    bpp: float
    distortion: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """What refining did.

    Attributes:
        steps: made, fewer than wanted after an early stop.
        seconds: taken.
        before: of the plain file.
        after: of the file that was written.
        scale: of the metric against the squared error, 0 without one.
    """

    steps: int
    seconds: float
    before: Cost
    after: Cost
    scale: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One encoded image.

    Attributes:
        data: the whole file.
        container: the same, parsed.
        z_bits, y_bits: what the hyper-latent and the latent cost by the entropy tables.
        symbols_sha256: what every decoder must read back.
        refinement: what refining did, if it was wanted.
    """

    data: bytes
    container: Container
    z_bits: float
    y_bits: float
    symbols_sha256: str
    refinement: Refinement | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The content of a file, which is all that a backbone's adapter may see.

    Attributes:
        y_hat: float32 (1, m, h, w) on the padded grid, stride 16.
        quality: in levels.
        height, width: true size in pixels.
        seed: of any noise a sampler wants.
        container: the parsed file.
        symbols_sha256: of the symbols read.
        statistics: of the image, when the file has them.
    """

    y_hat: Tensor
    quality: float
    height: int
    width: int
    seed: int
    container: Container
    symbols_sha256: str
    statistics: ImageStatistics | None = None
