"""The codec without any diffusion model: pixels -> file, file -> features and preview.

pixels --image_io.pad--> x --g_a--> y --gain--> y_q --FrozenEntropyModel--> string --container.pack--> file
file --ExactReader--> y_hat_q --inverse gain--> y_hat --g_s--> preview, --g_p--> perceptual preview
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from priorcodec.core import container, rate_control, tiling
from priorcodec.core.container import STATISTICS, Container, Segment
from priorcodec.core.entropy.entropy_model import EntropyModel
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.errors import ConfigError, ImageError
from priorcodec.core.exact_reader import ExactReader
from priorcodec.core.image import io as image_io
from priorcodec.core.latent_refinement import Objective, RefineConfig, refine
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.statistics import ImageStatistics
from priorcodec.core.transforms import HYPER_STRIDE, STRIDE
from priorcodec.core.types import Decoded, Encoded, Refinement
from priorcodec.core.weights import EncoderWeights, load_encoder

WEIGHTS = Path(__file__).parent.parent / "weights"
PIXEL_BYTES = (
    100  # of memory that g_a and g_s take for a pixel of a tile; benchmarks/high_resolution.py measures the whole
)
LARGEST_TILE = 4096
DEFAULT_QUALITY = 6.0  # about 0.065 bit per pixel on photographs


class Codec:
    """The fixed encoder and everything that reads its files without a backbone.

    Args:
        weights: an encoder's weight file (default: the shipped one).
        device: where the float networks run; entropy coding is always on the CPU.
        tile: side in pixels of what they work on at a time, 0 for whole images, None for what the device's memory allows.
    Raises:
        WeightsError: the weight file is missing or no encoder.
    """

    def __init__(self, weights: Path | None = None, device: torch.device | str = "cpu", *, tile: int | None = None):
        self.device = torch.device(device)
        self.weights: EncoderWeights = load_encoder(weights or WEIGHTS / "encoder.safetensors", self.device)
        self.transforms, self.entropy_model = self.weights.transforms, self.weights.entropy_model
        self.id = self.weights.id
        self.levels = self.transforms.config.levels
        self.reader = ExactReader(encoder_id=self.id, levels=self.levels, entropy_model=self.entropy_model)
        if tile is None:
            tile = tiling.automatic(PIXEL_BYTES, self.transforms.halo, LARGEST_TILE, self.device)
        self.tile = tile

    def quality_byte(self, quality: float) -> int:
        """Quality in levels, 0 to levels - 1 in steps of 1/16 -> the byte of the file. Raises ConfigError."""
        if not 0 <= quality <= self.levels - 1:
            raise ConfigError(f"quality is {quality}, wanted a number from 0 to {self.levels - 1}")
        return round(quality * QUALITY_STEPS)

    @torch.inference_mode()
    def encode(
        self,
        pixels: np.ndarray,
        quality: float = DEFAULT_QUALITY,
        *,
        statistics: bool = False,
        refined: RefineConfig | None = None,
    ) -> Encoded:
        """uint8 (h, w, 3) -> file. Raises ConfigError for an impossible quality, ImageError for a strange array.

        statistics: write the image's too, 8 bytes and 8 to 12 of framing, so that a decoder can use `renorm=written`;
        refined: spend time on a better file, never one with a larger R + lambda D.
        """
        byte = self.quality_byte(quality)
        if refined is not None:
            encoded, refinement = self._refined(pixels, byte, statistics=statistics, request=refined)
            return replace(encoded, refinement=refinement)
        return self._writer(pixels, statistics=statistics)(byte)

    @torch.inference_mode()
    def encode_to(
        self, pixels: np.ndarray, max_bytes: int, *, statistics: bool = False, refined: RefineConfig | None = None
    ) -> rate_control.RateSearchResult:
        """uint8 (h, w, 3) -> the largest file of at most `max_bytes` bytes, everything in it counted; see `rate_control.search`.

        refined: `rate_control.refined` says how.
        Raises ConfigError when the smallest file is larger, ImageError for a strange array.
        """
        write, top = self._writer(pixels, statistics=statistics), (self.levels - 1) * QUALITY_STEPS
        found = rate_control.search(write, max_bytes, top)
        if refined is None:
            return found
        refine_at = partial(self._refined, pixels, statistics=statistics, request=refined, max_bytes=max_bytes)
        return rate_control.refined(found, write, refine_at, top)

    def _writer(self, pixels: np.ndarray, *, statistics: bool) -> Callable[[int], Encoded]:
        """What does not depend on the quality, done once -> a function from quality byte to file."""
        height, width = _checked(pixels)
        y = self._analyzed(image_io.pad(image_io.to_planes(pixels), HYPER_STRIDE))
        return partial(self._write, y, (height, width), self._segments(pixels, statistics))

    def _refined(
        self,
        pixels: np.ndarray,
        byte: int,
        *,
        statistics: bool,
        request: RefineConfig,
        max_bytes: int | None = None,
        scale: float = 0.0,
    ) -> tuple[Encoded, Refinement]:
        """The refined file at one quality byte; max_bytes: see `refine`; scale: see `Objective`."""
        size, quality = _checked(pixels), byte / QUALITY_STEPS
        x = image_io.pad(image_io.to_tensor(pixels), HYPER_STRIDE).to(self.device)
        levels = torch.tensor([quality], device=self.device)
        lam = float(LambdaSchedule(levels=self.levels).lambdas(levels))
        write = partial(self._code, size=size, segments=self._segments(pixels, statistics), byte=byte)
        with torch.inference_mode(False), torch.no_grad():  # what is made inside inference mode has no gradient later
            x, levels = x.clone(), levels.clone()
            objective = Objective(pixels, x, lam, request.metric, scale)
            y, simulation = self.transforms.g_a(x), self.simulation
        return refine(request, objective, self.transforms, simulation, levels, y, write, max_bytes=max_bytes)

    @cached_property
    def simulation(self) -> EntropyModel:
        """The exact entropy model as a differentiable one."""
        c = self.transforms.config
        with torch.device("meta"):  # no random numbers of the process are used
            model = EntropyModel(c.m, c.m_h, c.n, c.levels, c.groups, certain=c.certain)
        model.to_empty(device="cpu").load_tables(self.entropy_model.tables)
        return model.requires_grad_(False).eval().to(self.device)

    def _segments(self, pixels: np.ndarray, statistics: bool) -> tuple[Segment, ...]:
        return (Segment(type=STATISTICS, data=ImageStatistics.measure(pixels).pack()),) if statistics else ()

    def _analyzed(self, planes: Tensor) -> Tensor:
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
        coded = self.entropy_model.encode(y_q[0].float().cpu().numpy(), z[0].float().cpu().numpy(), byte)
        content = Container(
            encoder_id=self.id, quality=byte, height=size[0], width=size[1], string=coded.string, segments=segments
        )
        encoded = Encoded(
            data=container.pack(content),
            container=content,
            z_bits=coded.z_bits,
            y_bits=coded.y_bits,
            symbols_sha256=coded.symbols_sha256,
        )
        return encoded, torch.from_numpy(coded.y_hat_q).to(self.device)

    def read(self, data: bytes, *, max_pixels: int = container.MAX_PIXELS) -> tuple[Container, np.ndarray, str]:
        """A file -> its content, y_hat in quantization steps (m, h, w) and its symbols' SHA-256: the exact part of decoding.

        Raises StreamError: damaged, too large, or written by another encoder.
        """
        return self.reader.read(data, max_pixels=max_pixels)

    @torch.inference_mode()
    def decode(self, data: bytes, *, max_pixels: int = container.MAX_PIXELS) -> Decoded:
        """A file -> its features. Raises StreamError as `read` does, or for damaged statistics."""
        content, y_hat_q, digest = self.read(data, max_pixels=max_pixels)
        written = content.segment(STATISTICS)
        quality = content.quality / QUALITY_STEPS
        values = torch.from_numpy(y_hat_q)[None].to(self.device)
        return Decoded(
            y_hat=self.transforms.dequantize(values, torch.tensor([quality], device=self.device)),
            quality=quality,
            height=content.height,
            width=content.width,
            seed=content.seed or 0,
            container=content,
            symbols_sha256=digest,
            statistics=None if written is None else ImageStatistics.unpack(written),
        )

    @torch.inference_mode()
    def preview(self, decoded: Decoded, *, perceptual: bool = False) -> np.ndarray:
        """An auxiliary decoder's image: uint8 (h, w, 3). perceptual: of the one trained to look real, not for least error."""
        plan = tiling.plan(decoded.height, decoded.width, self.tile, 0)
        pixels = np.empty((plan.height, plan.width, 3), np.uint8)
        for rows, columns in plan:
            x = self.preview_part(decoded, rows, columns, perceptual=perceptual)
            pixels[rows.own(1), columns.own(1)] = image_io.to_pixels(x)
        return np.ascontiguousarray(pixels[: decoded.height, : decoded.width])

    @torch.inference_mode()
    def preview_tensor(self, decoded: Decoded, *, perceptual: bool = False) -> Tensor:
        """`preview` with its padding: float32 (1, 3, 16h, 16w), nominally in [-1, 1]; made at every call."""
        plan = tiling.plan(decoded.height, decoded.width, self.tile, 0)
        x = decoded.y_hat.new_empty(1, 3, plan.height, plan.width)
        for rows, columns in plan:
            x[..., rows.own(1), columns.own(1)] = self.preview_part(decoded, rows, columns, perceptual=perceptual)
        return x

    @torch.inference_mode()
    def preview_part(
        self, decoded: Decoded, rows: tiling.Span, columns: tiling.Span, *, perceptual: bool = False
    ) -> Tensor:
        """What a tile reads of `preview_tensor`, exactly."""
        network = self.transforms.g_p if perceptual else self.transforms.g_s
        quality = torch.tensor([decoded.quality], device=self.device)
        synthesis = partial(network, quality=quality)
        return tiling.part(synthesis, decoded.y_hat, (rows, columns), self.transforms.halo, STRIDE)


def _checked(pixels: np.ndarray) -> tuple[int, int]:
    """(height, width). Raises ImageError: not an image, or a side is beyond what a file can hold."""
    if pixels.ndim != 3 or not pixels.size:
        raise ImageError(f"got an array of shape {pixels.shape}, wanted uint8 (h, w, 3)")
    height, width = pixels.shape[:2]
    if max(height, width) > container.MAX_SIDE:
        raise ImageError(
            f"the image is {width}x{height}, but a .gic file takes sides of at most {container.MAX_SIDE} pixels: "
            "cut it into parts"
        )
    return height, width
