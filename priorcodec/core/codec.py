"""The codec without any diffusion model: pixels -> file, file -> features and preview.

pixels --image_io.pad--> x --g_a--> y --gain--> y_q --ExactPrior--> strings --container.pack--> file
file --container.unpack--> strings --ExactPrior--> y_hat_q --inverse gain--> y_hat --g_s--> preview
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from priorcodec.core import container, rate_control, tiling
from priorcodec.core.container import STATISTICS, Container, Segment
from priorcodec.core.entropy.entropy_model import QUALITY_STEPS, Prior
from priorcodec.core.errors import ConfigError, StreamError
from priorcodec.core.image import io as image_io
from priorcodec.core.latent_refinement import Objective, Refine, Refinement, refine
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.statistics import ImageStatistics
from priorcodec.core.transforms import HYPER_STRIDE, STRIDE, Transforms
from priorcodec.core.weights import EncoderWeights, load_encoder

WEIGHTS = Path(__file__).parent.parent / "weights"
PIXEL_BYTES = (
    100  # of memory that g_a and g_s take for a pixel of a tile; benchmarks/high_resolution.py measures the whole
)
LARGEST_TILE = 4096


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """data: the whole file; stream: the same, parsed; hyper_bits, latent_bits: their cost by the entropy tables;
    symbols_sha256: what every decoder must read back; refinement: what refining did, if it was wanted."""

    data: bytes
    stream: Container
    hyper_bits: float
    latent_bits: float
    symbols_sha256: str
    refinement: Refinement | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a file says, and all a backbone's adapter may see.

    y_hat: (1, m, h, w) on the padded grid, stride 16; quality: in levels; height, width: true size in pixels; seed: of any noise
    a sampler wants; statistics: of the image, when the file has them; transforms, tile: what the preview is made with.
    """

    y_hat: Tensor
    transforms: Transforms
    tile: int
    quality: float
    height: int
    width: int
    seed: int
    stream: Container
    symbols_sha256: str
    statistics: ImageStatistics | None = None

    @property
    @torch.inference_mode()
    def preview(self) -> Tensor:
        """The auxiliary decoder's image (1, 3, 16h, 16w), nominally in [-1, 1]; made each time it is asked for."""
        plan = self.tiles(self.tile, 0)
        x = self.y_hat.new_empty(1, 3, plan.height, plan.width)
        for rows, columns in plan:
            x[..., rows.own(1), columns.own(1)] = self.preview_part(rows, columns)
        return x

    @torch.inference_mode()
    def preview_part(self, rows: tiling.Span, columns: tiling.Span) -> Tensor:
        """What a tile reads of `preview`, exactly."""
        return tiling.part(self.transforms.g_s, self.y_hat, (rows, columns), self.transforms.halo, STRIDE)

    def tiles(self, side: int, margin: int) -> tiling.Plan:
        """`tiling.plan` of the padded image."""
        return tiling.plan(self.height, self.width, side, margin)


class Codec:
    """The fixed encoder and everything that reads its files without a backbone.

    Args:
        weights: an encoder's weight file (default: the shipped one); device: where the networks run; tile: side in pixels of
            what they work on at a time, 0 for whole images, None for what the device's memory allows.
    Raises:
        WeightsError: the weight file is missing or no encoder.
    """

    def __init__(self, weights: Path | None = None, device: torch.device | str = "cpu", *, tile: int | None = None):
        self.device = torch.device(device)
        self.weights: EncoderWeights = load_encoder(weights or WEIGHTS / "encoder.safetensors", self.device)
        self.transforms, self.prior = self.weights.transforms, self.weights.prior
        self.id = self.weights.id
        self.levels = self.transforms.config.levels
        if tile is None:
            tile = tiling.automatic(PIXEL_BYTES, self.transforms.halo, LARGEST_TILE, self.device)
        self.tile = tile

    def quality_byte(self, quality: float) -> int:
        """Quality in levels, 0 to levels - 1 in steps of 1/32 -> the byte of the file. Raises ConfigError."""
        if not 0 <= quality <= self.levels - 1:
            raise ConfigError(f"quality is {quality}, wanted a number from 0 to {self.levels - 1}")
        return round(quality * QUALITY_STEPS)

    @torch.inference_mode()
    def encode(
        self, pixels: np.ndarray, quality: float = 3.0, *, statistics: bool = False, refined: Refine | None = None
    ) -> Encoded:
        """uint8 (h, w, 3) -> file. Raises ConfigError for an impossible quality, ImageError for a strange array.

        statistics: write the image's too, 8 bytes and 3 to 7 of framing, so that a decoder can use `renorm=written`;
        refined: spend time on a better file, never one with a larger R + lambda D.
        """
        byte = self.quality_byte(quality)
        if refined is not None:
            encoded, told = self._refined(pixels, byte, statistics=statistics, request=refined)
            return replace(encoded, refinement=told)
        return self._writer(pixels, statistics=statistics)(byte)

    @torch.inference_mode()
    def encode_to(
        self, pixels: np.ndarray, max_bytes: int, *, statistics: bool = False, refined: Refine | None = None
    ) -> rate_control.Found:
        """uint8 (h, w, 3) -> the largest file of at most `max_bytes` bytes, everything in it counted; see `rate_control.search`.

        refined: `rate_control.refined` says how.
        Raises ConfigError when the smallest file is larger, ImageError for a strange array.
        """
        write, top = self._writer(pixels, statistics=statistics), (self.levels - 1) * QUALITY_STEPS
        found = rate_control.search(write, max_bytes, top)
        if refined is None:
            return found
        better = partial(self._refined, pixels, statistics=statistics, request=refined, most=max_bytes)
        return rate_control.refined(found, write, better, top)

    def _writer(self, pixels: np.ndarray, *, statistics: bool) -> Callable[[int], Encoded]:
        """What does not depend on the quality, done once -> a function from quality byte to file."""
        height, width = pixels.shape[:2]
        y = self._analysed(image_io.pad(image_io.to_planes(pixels), HYPER_STRIDE))
        return partial(self._write, y, (height, width), self._segments(pixels, statistics))

    def _refined(
        self,
        pixels: np.ndarray,
        byte: int,
        *,
        statistics: bool,
        request: Refine,
        most: int | None = None,
        scale: float = 0.0,
    ) -> tuple[Encoded, Refinement]:
        """The refined file at one quality byte; most: see `refine`; scale: see `Objective`."""
        quality = byte / QUALITY_STEPS
        x = image_io.pad(image_io.to_tensor(pixels), HYPER_STRIDE).to(self.device)
        levels = torch.tensor([quality], device=self.device)
        lam = float(LambdaSchedule(levels=self.levels).lambdas(levels))
        size: tuple[int, int] = pixels.shape[:2]  # pyright: ignore[reportAssignmentType]
        write = partial(self._code, size=size, segments=self._segments(pixels, statistics), byte=byte)
        with torch.inference_mode(False), torch.no_grad():  # what is made inside inference mode has no gradient later
            x, levels = x.clone(), levels.clone()
            measure = None if request.towards is None else request.towards(x, quality)
            objective = Objective(pixels, x, lam, measure, scale)
            y, simulation = self.transforms.g_a(x), self.simulation
        return refine(request, objective, self.transforms, simulation, levels, y, write, most=most)

    @cached_property
    def simulation(self) -> Prior:
        """The exact entropy model as a differentiable one."""
        c = self.transforms.config
        prior = Prior(c.m, c.m_h, c.n, c.levels)
        prior.load_tables(self.weights.prior.tables)
        return prior.requires_grad_(False).eval().to(self.device)

    def _segments(self, pixels: np.ndarray, statistics: bool) -> tuple[Segment, ...]:
        return (Segment(type=STATISTICS, data=ImageStatistics.measure(pixels).pack()),) if statistics else ()

    def _analysed(self, planes: Tensor) -> Tensor:
        """uint8 (1, 3, H, W), sides multiples of 64 -> y (1, m, H/16, W/16), one tile after the other."""

        def g_a(part: Tensor) -> Tensor:
            return self.transforms.g_a(image_io.to_range(part.to(self.device)))

        height, width = planes.shape[-2:]
        shape = (1, self.transforms.config.m, height // STRIDE, width // STRIDE)
        y = torch.empty(shape, dtype=torch.float32, device=self.device)
        for rows, columns in tiling.plan(height, width, self.tile, 0):
            part = tiling.part(g_a, planes, (rows, columns), self.transforms.halo, 1)
            y[..., rows.own(STRIDE), columns.own(STRIDE)] = part
        return y

    def _write(self, y: Tensor, size: tuple[int, int], segments: tuple[Segment, ...], byte: int) -> Encoded:
        """Features y (1, m, h, w) of an image of true size (height, width), in pixels, at one quality byte -> file."""
        y_q, z = self.transforms.scaled(y, torch.tensor([byte / QUALITY_STEPS], device=self.device))
        return self._code(y_q, z, size=size, segments=segments, byte=byte)[0]

    def _code(
        self, y_q: Tensor, z: Tensor, *, size: tuple[int, int], segments: tuple[Segment, ...], byte: int
    ) -> tuple[Encoded, Tensor]:
        """Values in quantization steps, with batch dimension -> the file, and y_hat_q (m, h, w) as its decoder reads it."""
        coded = self.prior.encode(y_q[0], z[0], byte)
        stream = Container(
            encoder_id=self.id, quality=byte, height=size[0], width=size[1],
            hyper=coded.hyper, latent=coded.latent, segments=segments,
        )  # fmt: skip
        encoded = Encoded(
            data=container.pack(stream),
            stream=stream,
            hyper_bits=coded.hyper_bits,
            latent_bits=coded.latent_bits,
            symbols_sha256=coded.symbols_sha256,
        )
        return encoded, coded.y_hat_q

    @torch.inference_mode()
    def read(self, data: bytes, *, max_pixels: int = container.MAX_PIXELS) -> tuple[Container, Tensor, str]:
        """A file -> its stream, y_hat in quantization steps (m, h, w) and its symbols' SHA-256: the exact part of decoding.

        Raises StreamError: damaged, too large, or written by another encoder.
        """
        stream = container.unpack(data, max_pixels=max_pixels)
        if stream.encoder_id != self.id:
            raise StreamError(
                f"the file was written by encoder {stream.encoder_id:08x}, this is encoder {self.id:08x}: "
                "use the priorcodec version that ships that encoder"
            )
        if stream.quality > (self.levels - 1) * QUALITY_STEPS:
            raise StreamError(f"quality byte {stream.quality} is beyond this encoder's {self.levels} levels")
        h, w = (-(-side // HYPER_STRIDE) * HYPER_STRIDE // STRIDE for side in (stream.height, stream.width))
        return stream, *self.prior.decode(stream.hyper, stream.latent, stream.quality, h, w)

    @torch.inference_mode()
    def decode(self, data: bytes, *, max_pixels: int = container.MAX_PIXELS) -> Decoded:
        """A file -> its features and preview. Raises StreamError as `read` does, or for damaged statistics."""
        stream, y_hat_q, digest = self.read(data, max_pixels=max_pixels)
        written = stream.segment(STATISTICS)
        quality = stream.quality / QUALITY_STEPS
        y_hat = self.transforms.dequantize(y_hat_q[None], torch.tensor([quality], device=self.device))
        return Decoded(
            y_hat=y_hat,
            transforms=self.transforms,
            tile=self.tile,
            quality=quality,
            height=stream.height,
            width=stream.width,
            seed=container.seed(data),
            stream=stream,
            symbols_sha256=digest,
            statistics=None if written is None else ImageStatistics.unpack(written),
        )

    @torch.inference_mode()
    def preview(self, decoded: Decoded) -> np.ndarray:
        """The auxiliary decoder's image: uint8 (h, w, 3)."""
        plan = decoded.tiles(self.tile, 0)
        pixels = np.empty((plan.height, plan.width, 3), np.uint8)
        for rows, columns in plan:
            pixels[rows.own(1), columns.own(1)] = image_io.to_pixels(decoded.preview_part(rows, columns))
        return np.ascontiguousarray(pixels[: decoded.height, : decoded.width])
