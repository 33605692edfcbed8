"""The path of `priorcodec.core.codec` and `priorcodec.adapters.decode`, with onnxruntime in torch's place.

pixels --pad, analysis--> y --hyper--> y_q, z --FrozenEntropyModel--> string --container.pack--> file
file --ExactReader--> y_hat_q --inverse gain--> y_hat --preview | perceptual--> preview --decoder, noise--> image
Graphs and tables are those of `priorcodec export`; large images are worked on in the same tiles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from priorcodec_lite import noise
from priorcodec_lite.core import container, rate_control, statistics, tiling
from priorcodec_lite.core.container import STATISTICS, Container, Segment
from priorcodec_lite.core.entropy.tables import QUALITY_STEPS
from priorcodec_lite.core.errors import ConfigError, PriorCodecError, WeightsError
from priorcodec_lite.core.exact_reader import STRIDE, ExactReader
from priorcodec_lite.core.image.tensors import mirrored
from priorcodec_lite.core.statistics import ImageStatistics
from priorcodec_lite.core.tiling import Span
from priorcodec_lite.core.types import Encoded

FORMAT = 1  # of the manifest
PART = 1024  # pixels of a side that analysis and previews work on at a time
TABLES = "tables.safetensors"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The content of a file.

    Attributes:
        y_hat: Features, float32 (1, m, h, w) on the padded grid, stride 16.
        content: The parsed file.
        quality_byte: What the graphs are given, in 1/16 of a level.
        seed: Of the noise.
        symbols_sha256: SHA-256 of the symbols.
        statistics: Color statistics of the original image; None if the file has none.
    """

    y_hat: NDArray[np.float32]
    content: Container
    quality_byte: int
    seed: int
    symbols_sha256: str
    statistics: ImageStatistics | None

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
        self.models = models
        self.threads = threads or _processors()
        try:
            self.manifest: dict[str, Any] = json.loads((models / "manifest.json").read_text(encoding="utf-8"))
            if self.manifest["format"] != FORMAT:
                raise ValueError(f"format {self.manifest['format']}, wanted {FORMAT}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{models} has no readable graphs ({error}): write them with `priorcodec export`"
            ) from error
        self.reader = ExactReader.load(models / TABLES)
        self.id, self.levels = self.reader.encoder_id, self.reader.levels
        self._loading: dict[str, Future[Any]] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="graphs")

    def preload(self, *names: str) -> None:
        """Start to load graphs in the background, in this order."""
        for name in names:
            if name not in self._loading:
                self._loading[name] = self._loader.submit(self._load, name)

    def _load(self, name: str) -> Any:
        import onnxruntime  # pyright: ignore[reportMissingImports]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )  # takes longer than it saves
        options.log_severity_level = 4  # an exception says the same
        path = self.models / f"{name}.onnx"
        if not path.is_file():
            raise WeightsError(f"{path} is missing: export it, or give another folder of graphs")
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many
            raise WeightsError(f"{path} cannot be used ({str(error).splitlines()[0][:200]}): get it again") from error

    def _run(self, name: str, **inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        self.preload(name)
        return self._loading[name].result().run(None, inputs)

    def encode(self, pixels: NDArray[np.uint8], quality: float, *, written: bool = False) -> Encoded:
        """Encode uint8 pixels (h, w, 3) at a quality in levels.

        Args:
            pixels: The image.
            quality: 0 to levels - 1.
            written: Whether to write the image's statistics.

        Raises:
            ConfigError: An impossible quality.
            StreamError: The image is larger than a file can say.
        """
        if not 0 <= quality <= self.levels - 1:
            raise ConfigError(f"quality is {quality}, wanted a number from 0 to {self.levels - 1}")
        return self._writer(pixels, written)(round(quality * QUALITY_STEPS))

    def encode_to(self, pixels: NDArray[np.uint8], max_bytes: int, *, written: bool = False) -> Encoded:
        """Encode to the largest file of at most `max_bytes` bytes. Raises ConfigError: the smallest is larger."""
        return rate_control.search(self._writer(pixels, written), max_bytes, (self.levels - 1) * QUALITY_STEPS).encoded

    def _writer(self, pixels: NDArray[np.uint8], written: bool) -> Callable[[int], Encoded]:
        """What does not depend on the quality, done once -> a function from quality byte to file."""
        self.preload("analysis", "hyper")
        height, width = pixels.shape[:2]
        container.check_size(height, width, 2**40)
        segments = [Segment(type=STATISTICS, data=ImageStatistics.measure(pixels).pack())] if written else []
        padded = pixels[mirrored(height)][:, mirrored(width)].transpose(2, 0, 1)[None]

        def analysis(part: NDArray[np.uint8]) -> NDArray[np.float32]:
            return self._run("analysis", x=part.astype(np.float32) / np.float32(127.5) - 1)[0]

        y = self._in_parts(analysis, padded, 1, self._halo("analysis"), STRIDE)
        return partial(self._write, y, (height, width), tuple(segments))

    def _write(
        self, y: NDArray[np.float32], size: tuple[int, int], segments: tuple[Segment, ...], byte: int
    ) -> Encoded:
        y_q, z = self._run("hyper", y=y, quality=np.array([byte / QUALITY_STEPS], np.float32))
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
        """Read a file's features. Raises StreamError: damaged, too large, of another encoder, or without a latent."""
        content, y_hat_q, digest = self.reader.read(data, max_pixels=max_pixels)
        level = content.quality / QUALITY_STEPS
        k = min(int(level), self.levels - 2)
        gain = (1 - (level - k)) * self._log_inverse[k] + (level - k) * self._log_inverse[k + 1]
        segment = content.segment(STATISTICS)
        return Decoded(
            y_hat=(y_hat_q * np.exp(gain)[:, None, None])[None].astype(np.float32, copy=False),
            content=content,
            quality_byte=self.reader.decoder_quality(content),
            seed=content.seed or 0,
            symbols_sha256=digest,
            statistics=None if segment is None else ImageStatistics.unpack(segment),
        )

    @cached_property
    def _log_inverse(self) -> NDArray[np.float32]:
        from safetensors import safe_open

        with safe_open(self.models / TABLES, framework="numpy") as file:
            return file.get_tensor("log_inverse")

    def preview(self, decoded: Decoded, name: str) -> NDArray[np.float32]:
        """An auxiliary decoder's image with its padding, float32 (1, 3, 16h, 16w); name: preview or perceptual."""
        run = partial(self._run, name, quality=decoded.quality)
        return self._in_parts(lambda part: run(y_hat=part)[0], decoded.y_hat, STRIDE, self._halo(name), 1)

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
            stride = STRIDE * inputs["y_hat"][2] // inputs["noise"][2] if fixed else self._stride(inputs, "noise")
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
            x = self._run("decoder", quality=decoded.quality, **parts)[0]
            if not np.isfinite(x).all():
                raise PriorCodecError("the decoder answered with values that are not finite: get its graph again")
            return [x[..., : rows.high - rows.low, : columns.high - columns.low]]

        left, content = decoded.content.height, decoded.content
        for (band,) in tiling.blend(plan, one):
            if left > 0:
                yield band[..., : min(left, band.shape[-2]), : content.width]
            left -= band.shape[-2]

    @staticmethod
    def _stride(inputs: dict[str, list[Any]], name: str) -> int:
        """Pixels to a position of an input whose sides are free: those of the preview over its own."""
        return int(inputs["preview"][2].rstrip("h")) // int(inputs[name][2].rstrip("h"))

    def _to_pixels(self, bands: Any, decoded: Decoded, renorm: bool) -> NDArray[np.uint8]:
        if renorm and decoded.statistics is not None:
            kept = list(bands)
            shown = statistics.measure_shown(kept)
            bands = (decoded.statistics.apply(band, shown) for band in kept)
        pixels, top = np.empty((decoded.content.height, decoded.content.width, 3), np.uint8), 0
        for band in bands:
            levels = np.floor(((band[0] + 1) * np.float32(127.5)).clip(0, 255) + np.float32(0.5))
            pixels[top : top + band.shape[-2]] = levels.astype(np.uint8).transpose(1, 2, 0)
            top += band.shape[-2]
        return pixels

    def _halo(self, name: str) -> int:
        return self.manifest["files"][f"{name}.onnx"]["halo"]

    @staticmethod
    def _in_parts(f: Callable[[Any], Any], x: NDArray[Any], stride: int, halo: int, to: int) -> NDArray[np.float32]:
        """A local network part by part: x on a grid of `stride` pixels -> its answer on one of `to`, the same as in one piece."""
        height, width = x.shape[-2] * stride, x.shape[-1] * stride
        whole: NDArray[np.float32] | None = None
        for rows, columns in tiling.plan(height, width, PART, 0):
            part = tiling.part(f, x, (rows, columns), halo, stride)
            if whole is None:
                whole = np.empty((*part.shape[:-2], height // to, width // to), np.float32)
            whole[..., rows.own(to), columns.own(to)] = part
        assert whole is not None  # a plan has a tile
        return whole


def _processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
