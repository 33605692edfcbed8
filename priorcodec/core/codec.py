"""The codec without any diffusion model: pixels -> file, file -> features and preview.

pixels --image_io.pad--> x --g_a--> y --gain--> y_q --FrozenEntropyModel--> string --container.pack--> file
file --ExactReader--> y_hat_q --inverse gain--> y_hat --g_s--> preview, --g_p--> perceptual preview
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from priorcodec.core import container, rate_control, shipped, tiling
from priorcodec.core.container import (
    HYPER_STRIDE,
    RESIDUAL,
    STATISTICS,
    STRIDE,
    STRUCTURE,
    TEXTURE,
    Container,
    Segment,
)
from priorcodec.core.entropy.entropy_model import EntropyModel
from priorcodec.core.entropy.frozen import Planes
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.errors import ConfigError, ImageError, PriorCodecError, StreamError, WeightsError
from priorcodec.core.exact_reader import RESIDUAL_FILE, ExactReader
from priorcodec.core.image import io as image_io
from priorcodec.core.latent_refinement import Objective, RefineConfig, refine
from priorcodec.core.layers import residual
from priorcodec.core.layers.networks import SemanticNetworks
from priorcodec.core.layers.semantic import Regions, SemanticTables
from priorcodec.core.layers.settings import LayerConfig
from priorcodec.core.statistics import ImageStatistics
from priorcodec.core.types import Decoded, Encoded, Refinement
from priorcodec.core.weights import EncoderWeights, load_encoder

PIXEL_BYTES = 100
"""Memory that g_a and g_s take for a pixel of a tile; benchmarks/high_resolution.py measures the whole."""
LARGEST_TILE = 4096


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
        weights = weights or shipped.ENCODER
        self.weights: EncoderWeights = load_encoder(weights, self.device)
        self.transforms, self.entropy_model = self.weights.transforms, self.weights.entropy_model
        self.id = self.weights.id
        self.levels = self.transforms.config.levels
        self.reader = ExactReader(
            encoder_id=self.id,
            levels=self.levels,
            entropy_model=self.entropy_model,
            residual_file=weights.with_name(RESIDUAL_FILE),
        )
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
        quality: float = rate_control.DEFAULT_QUALITY,
        *,
        statistics: bool = False,
        layers: LayerConfig | None = None,
        refined: RefineConfig | None = None,
    ) -> Encoded:
        """uint8 (h, w, 3) -> file. Raises ConfigError for an impossible quality, ImageError for a strange array.

        statistics: write the image's too, 8 bytes and 8 to 12 of framing, so that a decoder can use `renorm=written`;
        layers: what is written, the latent alone by default;
        refined: spend time on a better latent, never one with a larger R + lambda D; only without other layers.
        """
        byte = self.quality_byte(quality)
        if refined is not None:
            (layers or LayerConfig()).check_refinable()
            encoded, refinement = self._refined(pixels, byte, statistics=statistics, request=refined)
            return replace(encoded, refinement=refinement)
        return self._writer(pixels, statistics=statistics, layers=layers)(byte)

    @torch.inference_mode()
    def encode_to(
        self,
        pixels: np.ndarray,
        max_bytes: int,
        *,
        statistics: bool = False,
        layers: LayerConfig | None = None,
        refined: RefineConfig | None = None,
    ) -> rate_control.RateSearchResult:
        """uint8 (h, w, 3) -> the largest file of at most `max_bytes` bytes, everything in it counted; see `rate_control.search`.

        refined: `rate_control.refined` says how.
        Raises ConfigError when the smallest file is larger, ImageError for a strange array.
        """
        if refined is not None:
            (layers or LayerConfig()).check_refinable()
        write = self._writer(pixels, statistics=statistics, layers=layers)
        top = (self.levels - 1) * QUALITY_STEPS
        found = rate_control.search(write, max_bytes, top)
        if refined is None:
            return found
        refine_at = partial(self._refined, pixels, statistics=statistics, request=refined, max_bytes=max_bytes)
        return rate_control.refined(found, write, refine_at, top)

    def _writer(
        self, pixels: np.ndarray, *, statistics: bool, layers: LayerConfig | None = None
    ) -> Callable[[int], Encoded]:
        """What does not depend on the quality, done once -> a function from quality byte to file."""
        size, layers = _checked(pixels), layers or LayerConfig()
        residual_settings = layers.residual_settings(*size)
        y, segments = self.analyze(pixels), self._segments(pixels, statistics)
        if "semantic" in layers.layers:
            segments += self.semantic_segments(pixels, y)
        if "latent" not in layers.layers:
            file = self.without_latent(size, segments)
            return lambda byte: file
        return partial(self.write, y, size, segments, residual_settings=residual_settings)

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
        levels = self._levels(quality)
        lam = float(self.weights.schedule.lambdas(levels))
        write = partial(self._code, size=size, segments=self._segments(pixels, statistics), byte=byte)
        with torch.inference_mode(False), torch.no_grad():  # what is made inside inference mode has no gradient later
            x, levels = x.clone(), levels.clone()
            objective = Objective(pixels, x, lam, request.metric, scale)
            y, simulation = self.transforms.g_a(x), self.simulation
        return refine(request, objective, self.transforms, simulation, levels, y, write, max_bytes=max_bytes)

    def _levels(self, quality: float) -> Tensor:
        """One quality in levels (1,), as the transforms take it."""
        return torch.tensor([quality], dtype=torch.float32, device=self.device)

    @cached_property
    def simulation(self) -> EntropyModel:
        """The exact entropy model as a differentiable one."""
        c = self.transforms.config
        with torch.device("meta"):  # no random numbers of the process are used
            model = EntropyModel(c.m, c.m_h, c.n, c.levels, c.groups, certain=c.certain)
        model.float().to_empty(device="cpu").load_tables(self.entropy_model.tables)
        return model.requires_grad_(False).eval().to(self.device)

    def _segments(self, pixels: np.ndarray, statistics: bool) -> tuple[Segment, ...]:
        return (Segment(type=STATISTICS, data=ImageStatistics.measure(pixels).pack()),) if statistics else ()

    @torch.inference_mode()
    def analyze(self, pixels: np.ndarray) -> Tensor:
        """uint8 (h, w, 3) -> its features y (1, m, H/16, W/16) on the padded grid."""
        return self._analyzed(image_io.pad(image_io.to_planes(pixels), HYPER_STRIDE))

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

    @torch.inference_mode()
    def features_to_write(self, decoded: Decoded) -> Tensor:
        """y (1, m, H/16, W/16) that `write` codes at the file's own quality as (nearly) the values that were decoded."""
        return self.transforms.unscaled(decoded.y_hat, self._levels(decoded.container.quality / QUALITY_STEPS))

    def write(
        self,
        y: Tensor,
        size: tuple[int, int],
        segments: tuple[Segment, ...],
        byte: int,
        *,
        residual_settings: residual.Settings | None = None,
    ) -> Encoded:
        """Features y (1, m, h, w) of an image of true size (height, width), in pixels, at one quality byte -> file.

        residual_settings: of the residual layer, None for none.
        """
        y_q, z = self.transforms.scaled(y, self._levels(byte / QUALITY_STEPS))
        return self._code(y_q, z, size=size, segments=segments, byte=byte, residual_settings=residual_settings)[0]

    def _code(
        self,
        y_q: Tensor,
        z: Tensor,
        *,
        size: tuple[int, int],
        segments: tuple[Segment, ...],
        byte: int,
        residual_settings: residual.Settings | None = None,
    ) -> tuple[Encoded, Tensor]:
        """Values in quantization steps, with batch dimension -> the file, and y_hat_q (m, h, w) without the residual."""
        values = y_q[0].float().cpu().numpy()
        if not np.isfinite(values).all():
            raise PriorCodecError(
                "the encoder answered with values that are not finite: its weights are damaged, get them again"
            )
        planes = None if residual_settings is None else Planes(values.shape)
        coded = self.entropy_model.encode(values, z[0].float().cpu().numpy(), byte, planes)
        if residual_settings is not None and planes is not None:
            layer = self.reader.residual_tables.write(values, coded.y_hat_q, planes, residual_settings)
            segments += (Segment(type=RESIDUAL, data=layer),)
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

    @cached_property
    def semantic_tables(self) -> SemanticTables:
        """Of the semantic layers. Raises WeightsError: missing, or made for another encoder."""
        tables = SemanticTables()
        if tables.encoder_id != self.id:
            raise WeightsError(
                f"the semantic layers were made for encoder {tables.encoder_id:08x}, this is {self.id:08x}: use layers=latent"
            )
        return tables

    @cached_property
    def semantic_networks(self) -> SemanticNetworks:
        """What describes and renders regions. Raises WeightsError."""
        return SemanticNetworks(m=self.transforms.config.m, device=self.device)

    @torch.inference_mode()
    def semantic_segments(self, pixels: np.ndarray, y: Tensor) -> tuple[Segment, ...]:
        """uint8 (h, w, 3) and its features y (1, m, H/16, W/16) -> structure and texture layers."""
        return self.semantic_tables.write(*self.semantic_networks.describe(pixels, y))

    def without_latent(self, size: tuple[int, int], segments: tuple[Segment, ...]) -> Encoded:
        """A file of segments alone, for an image of (height, width) in pixels."""
        content = Container(
            encoder_id=self.id, quality=0, height=size[0], width=size[1], string=None, segments=segments
        )
        return Encoded(data=container.pack(content), container=content, z_bits=0.0, y_bits=0.0, symbols_sha256="")

    def regions(self, content: Container) -> Regions:
        """The semantic content of a file of this encoder, without decoding an image. Raises StreamError."""
        return self.semantic_tables.read(content, self.reader)

    def _rendered(self, content: Container) -> Decoded:
        """A file without a latent -> the features of its rendered preview."""
        if content.segment(STRUCTURE) is not None and content.segment(TEXTURE) is None:  # seen before the map is read
            raise StreamError("the file has a structure layer but no texture layer: there is no image to decode")
        regions, seed = self.regions(content), content.seed or 0
        planes = self.semantic_networks.render(regions, content.height, content.width, seed, tile=self.tile)
        return Decoded(
            y_hat=self._analyzed(planes),
            quality=content.quality / QUALITY_STEPS,
            height=content.height,
            width=content.width,
            seed=seed,
            container=content,
            symbols_sha256="",
            rendered=planes,
        )

    @torch.inference_mode()
    def decode(
        self, data: bytes, *, max_pixels: int = container.MAX_PIXELS, layers: Collection[str] | None = None
    ) -> Decoded:
        """A file -> its features; those of a rendered preview where it has no latent. layers: see `container.unpack`.

        Raises StreamError as `ExactReader.read` does, or for damaged statistics or layers.
        """
        content = self.reader.unpack(data, max_pixels=max_pixels, layers=layers)
        if content.string is None:
            return self._rendered(content)
        y_hat_q, digest = self.reader.latent(content)
        byte = self.reader.decoder_quality(content)
        values = torch.from_numpy(y_hat_q)[None].to(self.device)
        steps = self._levels(content.quality / QUALITY_STEPS)
        return Decoded(
            y_hat=self.transforms.dequantize(values, steps),
            quality=byte / QUALITY_STEPS,
            height=content.height,
            width=content.width,
            seed=content.seed or 0,
            container=content,
            symbols_sha256=digest,
        )

    @torch.inference_mode()
    def preview(self, decoded: Decoded, *, perceptual: bool = False) -> np.ndarray:
        """An auxiliary decoder's image: uint8 (h, w, 3). perceptual: use g_p instead of g_s."""
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
        if decoded.rendered is not None:
            return image_io.to_range(decoded.rendered[..., rows.read(1), columns.read(1)].to(self.device))
        network = self.transforms.g_p if perceptual else self.transforms.g_s
        quality = self._levels(decoded.quality)
        synthesis = partial(network, quality=quality)
        return tiling.part(synthesis, decoded.y_hat, (rows, columns), self.transforms.halo, STRIDE)


def _checked(pixels: np.ndarray) -> tuple[int, int]:
    """(height, width). Raises ImageError: not an image, or a side is beyond what a file can hold."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ImageError(f"got a {pixels.dtype} array of shape {pixels.shape}, wanted uint8 (h, w, 3)")
    height, width = pixels.shape[:2]
    if max(height, width) > container.MAX_SIDE:
        raise ImageError(
            f"the image is {width}x{height}, but a .gic file takes sides of at most {container.MAX_SIDE} pixels: "
            "cut it into parts"
        )
    return height, width
