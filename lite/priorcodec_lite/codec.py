"""The path of `priorcodec.core.codec` and `priorcodec.adapters.decode`, with onnxruntime in torch's place.

pixels --pad, analysis--> y --hyper--> y_q, z --FrozenEntropyModel--> string --container.pack--> file
file --ExactReader--> y_hat_q --inverse gain--> y_hat --preview | perceptual--> preview --decoder, noise--> image
file without a latent --SemanticTables--> regions --renderer--> preview --analysis--> y_hat --decoder, noise--> image
Graphs and tables are those of `priorcodec export`; large images are worked on in the same tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from priorcodec_lite import noise, rendering
from priorcodec_lite.core import container, rate_control, statistics, tiling
from priorcodec_lite.core.container import STATISTICS, STRIDE, Container, Segment
from priorcodec_lite.core.entropy.tables import QUALITY_STEPS
from priorcodec_lite.core.errors import ConfigError, PriorCodecError, StreamError, WeightsError
from priorcodec_lite.core.exact_reader import ExactReader
from priorcodec_lite.core.image.tensors import mirrored
from priorcodec_lite.core.layers.semantic import Regions, SemanticTables
from priorcodec_lite.core.statistics import ImageStatistics
from priorcodec_lite.core.tiling import Span
from priorcodec_lite.core.types import Encoded
from priorcodec_lite.graphs import Graphs

TABLES = "tables.safetensors"
SEMANTIC = "semantic.safetensors"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The content of a file.

    Attributes:
        y_hat: Features, float32 (1, m, h, w) on the padded grid, stride 16.
        content: The parsed file.
        quality_byte: What the graphs are given, in 1/16 of a level.
        seed: Of the noise.
        symbols_sha256: SHA-256 of the symbols; empty without a latent.
        rendered: The preview of a file without a latent, uint8 (1, 3, 16h, 16w); None otherwise.
    """

    y_hat: NDArray[np.float32]
    content: Container
    quality_byte: int
    seed: int
    symbols_sha256: str
    rendered: NDArray[np.uint8] | None = None

    @property
    def statistics(self) -> ImageStatistics | None:
        """Color statistics of the original image; None if the file has none. Raises StreamError: they are damaged."""
        segment = self.content.segment(STATISTICS)
        return None if segment is None else ImageStatistics.unpack(segment)

    @property
    def quality(self) -> NDArray[np.float32]:
        """In levels (1,), as the graphs take it."""
        return np.array([self.quality_byte / QUALITY_STEPS], np.float32)


class Codec:
    """Everything that one folder of graphs can do.

    Args:
        models: A folder as `priorcodec export` writes it.
        threads: Of onnxruntime; None for as many as there are processors.

    Raises:
        WeightsError: The folder is not complete, or of another version.
    """

    def __init__(self, models: Path, *, threads: int | None = None):
        self.graphs = Graphs(models, threads=threads)
        self.manifest = self.graphs.manifest
        self.reader = ExactReader.load(models / TABLES)
        self.id, self.levels = self.reader.encoder_id, self.reader.levels

    def encode(self, pixels: NDArray[np.uint8], quality: float, *, statistics: bool = False) -> Encoded:
        """Encode uint8 pixels (h, w, 3) at a quality in levels.

        Args:
            pixels: The image.
            quality: 0 to levels - 1.
            statistics: Whether to write the image's statistics.

        Raises:
            ConfigError: An impossible quality.
            StreamError: The image is larger than a file can say.
        """
        if not 0 <= quality <= self.levels - 1:
            raise ConfigError(f"quality is {quality}, wanted a number from 0 to {self.levels - 1}")
        return self._writer(pixels, written=statistics)(round(quality * QUALITY_STEPS))

    def encode_to(self, pixels: NDArray[np.uint8], max_bytes: int, *, statistics: bool = False) -> Encoded:
        """Encode to the largest file of at most `max_bytes` bytes. Raises ConfigError: the smallest is larger."""
        return rate_control.search(
            self._writer(pixels, written=statistics), max_bytes, (self.levels - 1) * QUALITY_STEPS
        ).encoded

    def _writer(self, pixels: NDArray[np.uint8], *, written: bool) -> Callable[[int], Encoded]:
        """What does not depend on the quality, done once -> a function from quality byte to file."""
        self.graphs.preload("analysis", "hyper")
        height, width = pixels.shape[:2]
        container.check_size(height, width, 2**40)
        segments = [Segment(type=STATISTICS, data=ImageStatistics.measure(pixels).pack())] if written else []
        y = self._analyzed(pixels[mirrored(height)][:, mirrored(width)].transpose(2, 0, 1)[None])
        return partial(self._write, y, (height, width), tuple(segments))

    def _analyzed(self, planes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (1, 3, H, W), sides multiples of 64 -> y (1, m, H/16, W/16)."""

        def analysis(part: NDArray[np.uint8]) -> NDArray[np.float32]:
            return self.graphs.run("analysis", x=_to_range(part))[0]

        return self.graphs.in_parts("analysis", analysis, planes, 1, STRIDE)

    def _write(
        self, y: NDArray[np.float32], size: tuple[int, int], segments: tuple[Segment, ...], byte: int
    ) -> Encoded:
        y_q, z = self.graphs.run("hyper", y=y, quality=np.array([byte / QUALITY_STEPS], np.float32))
        coded = self.reader.entropy_model.encode(y_q[0], z[0], byte)
        content = Container(
            encoder_id=self.id, quality=byte, height=size[0], width=size[1], string=coded.string, segments=segments
        )
        return Encoded(
            data=container.pack(content),
            container=content,
            z_bits=coded.z_bits,
            y_bits=coded.y_bits,
            symbols_sha256=coded.symbols_sha256,
        )

    def decode(self, data: bytes, *, max_pixels: int = container.MAX_PIXELS) -> Decoded:
        """Read a file's features, those of a rendered preview where it has no latent.

        Raises StreamError: damaged, too large, of another encoder, or neither a latent nor both semantic layers.
        """
        content = self.reader.unpack(data, max_pixels=max_pixels)
        rendered, digest = None, ""
        if content.string is None:
            rendered = self._rendered(content)
            y_hat = self._analyzed(rendered)
        else:
            y_hat_q, digest = self.reader.latent(content)
            y_hat = self._dequantized(y_hat_q, content.quality)
        return Decoded(
            y_hat=y_hat,
            content=content,
            quality_byte=content.quality if content.string is None else self.reader.decoder_quality(content),
            seed=content.seed or 0,
            symbols_sha256=digest,
            rendered=rendered,
        )

    def regions(self, content: Container) -> Regions:
        """The regions of a file of this encoder, as `priorcodec.core.layers.semantic` reads them. Raises StreamError."""
        return self.semantic_tables.read(content, self.reader)

    @cached_property
    def semantic_tables(self) -> SemanticTables:
        """Of the semantic layers. Raises WeightsError: the folder has none, or those of another encoder."""
        tables = SemanticTables(self.graphs.folder / SEMANTIC)
        if tables.encoder_id != self.id:
            raise WeightsError(
                f"{self.graphs.folder / SEMANTIC} was made for encoder {tables.encoder_id:08x}, this is {self.id:08x}: "
                "export the graphs again"
            )
        return tables

    def _rendered(self, content: Container) -> NDArray[np.uint8]:
        """The preview of a file without a latent, with its padding: uint8 (1, 3, H, W)."""
        regions = self.regions(content)
        if regions.values is None:
            raise StreamError("the file has a structure layer but no texture layer: there is no image to decode")
        planes = rendering.planes(regions, content.height, content.width, content.seed or 0)
        render = partial(self.graphs.run, "renderer")
        x = self.graphs.in_parts("renderer", lambda part: render(painted=part)[0], planes, STRIDE, 1)
        return _to_levels(x)

    def _dequantized(self, y_hat_q: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
        level = quality / QUALITY_STEPS
        k = min(int(level), self.levels - 2)
        gain = (1 - (level - k)) * self._log_inverse[k] + (level - k) * self._log_inverse[k + 1]
        return (y_hat_q * np.exp(gain)[:, None, None])[None].astype(np.float32, copy=False)

    @cached_property
    def _log_inverse(self) -> NDArray[np.float32]:
        from safetensors import safe_open

        with safe_open(self.graphs.folder / TABLES, framework="numpy") as file:
            return file.get_tensor("log_inverse")

    def preview(self, decoded: Decoded, name: str) -> NDArray[np.float32]:
        """An auxiliary decoder's image with its padding, float32 (1, 3, 16h, 16w); name: preview or perceptual.

        Without a latent both are what was rendered.
        """
        if decoded.rendered is not None:
            return _to_range(decoded.rendered)
        run = partial(self.graphs.run, name, quality=decoded.quality)
        return self.graphs.in_parts(name, lambda part: run(y_hat=part)[0], decoded.y_hat, STRIDE, 1)

    def pixels(self, decoded: Decoded, *, renorm: bool = False) -> NDArray[np.uint8]:
        """Decode through the backbone: uint8 (h, w, 3) of the true size; renorm: move it to the file's statistics."""
        about = self.manifest["files"]["decoder.onnx"]
        preview = self.preview(decoded, about["preview"].removesuffix(".onnx"))
        return self._to_pixels(self._bands(decoded, preview, about["inputs"]), decoded, renorm)

    def preview_pixels(self, decoded: Decoded, *, perceptual: bool = False) -> NDArray[np.uint8]:
        """A preview: uint8 (h, w, 3) of the true size."""
        content = decoded.content
        x = self.preview(decoded, "perceptual" if perceptual else "preview")
        return self._to_pixels([x[..., : content.height, : content.width]], decoded, False)

    def _bands(
        self, decoded: Decoded, preview: NDArray[np.float32], inputs: dict[str, list[Any]]
    ) -> Iterator[NDArray[np.float32]]:
        """Horizontal bands (1, 3, rows, width) of the image without its padding, not clamped."""
        height, width = preview.shape[-2:]
        fixed = isinstance(inputs["y_hat"][2], int)  # the graph takes squares of one size
        margin, tile = self.manifest["margin"], self.manifest["tile"]
        plan = tiling.plan(height, width, tile - 2 * margin if fixed else tile, margin)
        whole: dict[str, tuple[NDArray[np.float32], int]] = {"y_hat": (decoded.y_hat, STRIDE), "preview": (preview, 1)}
        if "noise" in inputs:
            high, low = (int(str(inputs[name][2]).rstrip("h")) for name in ("preview", "noise"))
            stride = high // low
            shape = (1, inputs["noise"][1], height // stride, width // stride)
            whole["noise"] = (noise.normal(decoded.seed, shape), stride)

        def one(rows: Span, columns: Span) -> list[NDArray[np.float32]]:
            parts = {}
            for name, (values, stride) in whole.items():
                part = values[..., rows.read(stride), columns.read(stride)]
                if fixed:
                    sides = [(0, tile // stride - side) for side in part.shape[-2:]]
                    part = np.pad(part, [(0, 0), (0, 0), *sides], "edge")
                parts[name] = part
            x = self.graphs.run("decoder", quality=decoded.quality, **parts)[0]
            if not np.isfinite(x).all():
                raise PriorCodecError("the decoder answered with values that are not finite: get its graph again")
            return [x[..., : rows.high - rows.low, : columns.high - columns.low]]

        left, content = decoded.content.height, decoded.content
        for (band,) in tiling.blend(plan, one):
            if left > 0:
                yield band[..., : min(left, band.shape[-2]), : content.width]
            left -= band.shape[-2]

    def _to_pixels(self, bands: Any, decoded: Decoded, renorm: bool) -> NDArray[np.uint8]:
        if renorm and decoded.statistics is not None:
            kept = list(bands)
            shown = statistics.measure_shown(kept)
            bands = (decoded.statistics.apply(band, shown) for band in kept)
        pixels, top = np.empty((decoded.content.height, decoded.content.width, 3), np.uint8), 0
        for band in bands:
            pixels[top : top + band.shape[-2]] = _to_levels(band[0]).transpose(1, 2, 0)
            top += band.shape[-2]
        return pixels


def _to_range(planes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-bit levels -> [-1, 1]."""
    return planes.astype(np.float32) / np.float32(127.5) - 1


def _to_levels(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Nominally [-1, 1] -> 8-bit levels: clamped, then rounded once, halves up."""
    return np.floor(((x + 1) * np.float32(127.5)).clip(0, 255) + np.float32(0.5)).astype(np.uint8)
