"""Records that several packages share: plain data without networks or computation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from priorcodec.core.container import Container
    from priorcodec.core.statistics import ImageStatistics


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Rate and distortion of a whole file.

    Attributes:
        bytes: Size of the file.
        bpp: Bits per pixel of the true size.
        distortion: Distortion of the preview in squared 8-bit values, mixed with the metric of refinement if there is one.
        total: bpp + lambda * distortion.
    """

    bytes: int
    bpp: float
    distortion: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Outcome of online latent optimization.

    Attributes:
        steps: Steps done; fewer than requested after an early stop.
        seconds: Time taken.
        before: Cost of the file without refinement.
        after: Cost of the file that was written.
        scale: Factor between the metric and the squared error, 0 without a metric.
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
        data: The whole file.
        container: The parsed file.
        z_bits: Bits of the hyper-latent, estimated from the entropy tables.
        y_bits: Bits of the latent, estimated likewise.
        symbols_sha256: SHA-256 of the symbols, which every decoder must reproduce.
        refinement: Outcome of refinement; None if there was none.
    """

    data: bytes
    container: Container
    z_bits: float
    y_bits: float
    symbols_sha256: str
    refinement: Refinement | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The decoded content of a file: everything an adapter can use.

    Attributes:
        y_hat: Features, float32 (1, m, h, w) on the padded grid, stride 16.
        quality: What decoders are told, in levels: the file's, or more if it has a residual layer.
        height: True height in pixels.
        width: True width in pixels.
        seed: Seed of all noise, from the file's checksum.
        container: The parsed file.
        symbols_sha256: SHA-256 of the symbols.
        rendered: The preview of a file without a latent, uint8 (1, 3, H, W) on the padded grid; y_hat has its features.
    """

    y_hat: Tensor
    quality: float
    height: int
    width: int
    seed: int
    container: Container
    symbols_sha256: str
    rendered: Tensor | None = None

    @property
    def statistics(self) -> ImageStatistics | None:
        """Color statistics of the original image; None if the file has none. Raises StreamError: they are damaged."""
        from priorcodec.core.container import STATISTICS
        from priorcodec.core.statistics import ImageStatistics

        # Read only where they are used: a file that is damaged there still has an image.
        segment = self.container.segment(STATISTICS)
        return None if segment is None else ImageStatistics.unpack(segment)
