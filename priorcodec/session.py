"""The Python API people meet first: one session encodes images, previews files, and decodes them through a backbone.

    image --core.codec--> file --core.codec--> features --adapters.tiled: adapter + backbone--> image
Encoding and previews load no diffusion code; the backbone is loaded when the first image is decoded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec.backbones.spec import LowMemory
from priorcodec.config import DecodeConfig, Renorm, decode_config
from priorcodec.core import container, rate_control
from priorcodec.core.errors import AdapterError, ConfigError, PrecisionWarning, PriorCodecError, StreamError
from priorcodec.core.image import io as image_io

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
        from priorcodec.adapters.adapter import Adapter
    from priorcodec.core.codec import Codec
    from priorcodec.core.latent_refinement import Metric, RefineConfig
    from priorcodec.core.types import Decoded, Encoded
    from priorcodec.registry import Registry


class Session:
    """Made by `open_session`. Safe to use from several threads.

    config: settings of the decoder; encoder: another encoder's weight file than the shipped one.
    """

    def __init__(self, config: DecodeConfig, *, encoder: Path | None = None, registry: Registry | None = None):
        self.config = config
        self._encoder_file, self._registry = encoder, registry
        self._codec: Codec | None = None
        self._adapter: Adapter | None = None
        self._lock = threading.RLock()
        self._one_call = threading.Lock()  # the adapter keeps what its hooks need; previews go on meanwhile

    @property
    def codec(self) -> Codec:
        """The fixed encoder and its entropy model, loaded when first used."""
        from priorcodec.core.codec import Codec

        with self._lock:
            if self._codec is None:
                self._codec = Codec(self._encoder_file, device=self._device, tile=self.config.tile)
            return self._codec

    @property
    def registry(self) -> Registry:
        from priorcodec.registry import open_registry

        with self._lock:
            if self._registry is None:
                self._registry = open_registry()
            return self._registry

    def encode(
        self,
        image: Any,
        quality: float = 3.0,
        *,
        background: str | None = None,
        statistics: bool = False,
        refine: int = 0,
        refine_metric: Metric = "psnr",
    ) -> bytes:
        """An image (path, PIL image, uint8 array (h, w, 3) or (h, w), tensor (3, h, w) in [-1, 1]) -> a .gic file's bytes.

        quality: in levels, 0 (smallest file) to 7, fractions allowed; background: color behind transparency; statistics:
        write eight bytes (and 3 to 7 of framing) that decoders with renorm=written use; refine, refine_metric: see `refinement`.
        Raises:
            ImageError: unreadable, or transparent without a background. ConfigError: an impossible quality, or as `refinement`.
        """
        refined = self.refinement(refine, refine_metric)
        return self.encode_details(image, quality, background=background, statistics=statistics, refined=refined).data

    def encode_details(
        self,
        image: Any,
        quality: float = 3.0,
        *,
        background: str | None = None,
        statistics: bool = False,
        refined: RefineConfig | None = None,
    ) -> Encoded:
        """`encode` with everything known about the file: estimated bits, parts, hash of the symbols, what refining did."""
        pixels = image_io.from_any(image, background=background, max_pixels=self.config.max_pixels).pixels
        return self.codec.encode(pixels, quality, statistics=statistics, refined=refined)

    def refinement(
        self, steps: int, metric: Metric = "psnr", *, progress: Callable[[int], None] | None = None
    ) -> RefineConfig | None:
        """A request that `Codec.encode` takes: `steps` of online latent optimization, None for 0.

        metric: "psnr", or "gmsd", where most of the distortion is what edges lost; progress: called with the number of steps done.
        Raises:
            ConfigError: not 0 to 10000 steps, or another metric.
        """
        from priorcodec.core.latent_refinement import RefineConfig

        request = RefineConfig(steps=steps or 1, metric=metric, progress=progress)  # a wrong metric is an error at 0 steps too
        return request if steps else None

    def encode_to(
        self,
        image: Any,
        *,
        max_bytes: int | None = None,
        bpp: float | None = None,
        background: str | None = None,
        statistics: bool = False,
        refine: int = 0,
        refine_metric: Metric = "psnr",
    ) -> bytes:
        """`encode` with the quality searched: the largest file at or under `max_bytes`, or `bpp` bits per pixel of the true size.

        The whole file counts. It has the highest quality when that fits.
        Raises:
            ConfigError: none or both targets, or one below this image's smallest file. ImageError: as `encode` does.
        """
        pixels = image_io.from_any(image, background=background, max_pixels=self.config.max_pixels).pixels
        target = rate_control.target_bytes(max_bytes, bpp, *pixels.shape[:2])
        refined = self.refinement(refine, refine_metric)
        return self.codec.encode_to(pixels, target, statistics=statistics, refined=refined).encoded.data

    def preview(self, data: bytes) -> Image:
        """The auxiliary decoder's image: no backbone, no diffusion code. Raises StreamError."""
        return _pil(self.preview_pixels(data))

    def preview_pixels(self, data: bytes) -> np.ndarray:
        """`preview` as uint8 (h, w, 3)."""
        return self.codec.preview(self._read(data))

    def decode(self, data: bytes) -> Image:
        """A file -> the backbone's image, in its true size.

        Raises:
            StreamError: damaged or foreign bytes, or no statistics for renorm=written.
            WeightsError, AdapterError, BackboneError: the decoder is not complete.
        """
        return _pil(self.decode_pixels(data))

    def decode_pixels(self, data: bytes) -> np.ndarray:
        """`decode` as uint8 (h, w, 3), in tiles where the image is large.

        file -> y_hat --adapter, `steps` calls--> z --renorm=predicted--> z --to_pixels, strength--> x
             --crop, renorm=written--> image
        Values that are not finite in half precision: once more in float32, with a PrecisionWarning; there too: PriorCodecError.
        """
        import torch

        decoded = self._read(data)
        if self.config.renorm is Renorm.written and decoded.statistics is None:
            raise StreamError(
                "renorm=written, but the file has no statistics: write it with `encode --statistics`, or decode with renorm=off"
            )
        adapter = self.adapter
        with torch.inference_mode(), self._one_call:
            try:
                return self._image(adapter, decoded)
            except FloatingPointError:
                return self._image_in_float32(adapter, decoded)

    def fingerprint(self, data: bytes, *, preview: bool = False) -> str:
        """32 hex digits of a file and all settings its image depends on; not of the device, which changes last bits only.

        Raises StreamError for damaged bytes.
        """
        from priorcodec.adapters import decode as adapter_decode
        from priorcodec.core import tiling

        parts: list[Any] = [f"{self.codec.id:08x}", preview]
        if not preview:
            stream = container.unpack(data, max_pixels=self.config.max_pixels)
            plan = tiling.plan(stream.height, stream.width, self.tile, adapter_decode.MARGIN)
            counts = [len(plan.rows), len(plan.columns)]  # as many of them are the same ones on every machine
            parts += [*self._image_settings, counts]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode() + data).hexdigest()[:32]

    @cached_property
    def _image_settings(self) -> list[Any]:
        """For `fingerprint`; once for all files, since the whole adapter is hashed."""
        from priorcodec.registry.adapter_sources import sha256

        spec = self.registry.spec(self.config.backbone.name)
        adapter = sha256(self.registry.adapter(spec, self.config.adapter))
        settings = {**dataclasses.asdict(self.config), "dtype": str(self._dtype), "adapter": adapter}
        unseen = ("device", "max_pixels", "tile")
        return [spec.revision, {key: value for key, value in settings.items() if key not in unseen}]

    def _read(self, data: bytes) -> Decoded:
        return self.codec.decode(data, max_pixels=self.config.max_pixels)

    def _image(self, adapter: Adapter, decoded: Decoded) -> np.ndarray:
        """uint8 (h, w, 3). Raises FloatingPointError when a value in it or its latent is not finite."""
        from priorcodec.adapters import decode as adapter_decode
        from priorcodec.core import tiling
        from priorcodec.core.moments import match_moments

        plan = tiling.plan(decoded.height, decoded.width, self.tile, adapter_decode.MARGIN)
        preview = self.codec.preview_tensor(decoded)
        found = adapter_decode.latent(adapter, decoded, preview, plan, steps=self.config.steps)
        if self.config.renorm is Renorm.predicted:
            if found.mean is None or found.std is None:
                raise AdapterError(
                    f"renorm=predicted, but adapter {self.config.adapter!r} of {self.config.backbone.name} predicts no "
                    "statistics: decode with renorm=off"
                )
            found = dataclasses.replace(found, z=match_moments(found.z, found.mean, found.std))
        written = decoded.statistics if self.config.renorm is Renorm.written else None
        return adapter_decode.image(adapter, decoded, found, plan, strength=self.config.strength, written=written)

    def _image_in_float32(self, adapter: Adapter, decoded: Decoded) -> np.ndarray:
        """What to do after an overflow. Raises PriorCodecError: nothing more precise is left, or it does not help."""
        from torch import nn

        from priorcodec.adapters.precision import upcast_to_float32

        name, dtype = self.config.backbone.name, str(self._dtype).removeprefix("torch.")
        backbone, pixels = adapter.attached, None
        if dtype != "float32":
            with (
                upcast_to_float32(backbone if isinstance(backbone, nn.Module) else backbone.module),
                contextlib.suppress(FloatingPointError),
            ):
                pixels = self._image(adapter, decoded)
        if pixels is None:
            raise PriorCodecError(
                f"{name} answered with values that are not finite, in float32 too: its weights or its adapter are damaged, "
                "get them again"
            )
        warnings.warn(
            PrecisionWarning(
                f"{name} overflowed in {dtype}, so this image was decoded in float32: dtype=float32 is quicker"
            ),
            stacklevel=3,
        )
        return pixels

    @property
    def adapter(self) -> Adapter:
        """The adapter, attached to its loaded backbone (both are loaded when first used)."""
        with self._lock:
            if self._adapter is None:
                self._adapter = self._load_adapter()
            return self._adapter

    def _load_adapter(self) -> Adapter:
        from priorcodec.adapters import file as adapter_file
        from priorcodec.adapters.adapter import Adapter

        spec = self.registry.spec(self.config.backbone.name)
        file = adapter_file.read(self.registry.adapter(spec, self.config.adapter))
        adapter_file.check(file, spec, encoder_id=self.codec.id)
        weights = self.registry.weights(spec, self.config.backbone.weights)
        adapter_file.check_shapes(file, spec, m=self.codec.transforms.config.m, levels=self.codec.levels)
        built: Any = self.registry.build(spec, weights, dtype=self._dtype)
        backbone: Any = built.to(self._device)
        saver = backbone if self.config.low_memory else None
        if isinstance(saver, LowMemory):
            saver.slice_pixels()
            saver.tile_pixels()
        adapter = Adapter(spec, file.config, m=self.codec.transforms.config.m, levels=self.codec.levels)
        adapter.inject(backbone)
        adapter_file.load(file, adapter)
        return adapter.to(self._device).requires_grad_(False).eval()

    @property
    def tile(self) -> int:
        """Side in pixels of what the backbone works on at a time, 0 for whole images."""
        from priorcodec.adapters import decode as adapter_decode

        if self.config.tile is not None:
            return self.config.tile
        return adapter_decode.automatic(self.registry.spec(self.config.backbone.name).pixel_bytes, self._device)

    @property
    def _device(self) -> torch.device:
        import torch

        name = self.config.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device={name} cannot be used here ({str(error).splitlines()[0]}): try cpu") from error

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        name = str(self.config.dtype)
        if name == "auto":
            return torch.bfloat16 if self._device.type == "cuda" else torch.float32
        return getattr(torch, name)


def open_session(
    backbone: str = "nano_unet",
    *,
    weights: str | None = None,
    adapter: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    overrides: Sequence[str] = (),
    encoder: Path | None = None,
    registry: Registry | None = None,
) -> Session:
    """Settings -> a session. Nothing is loaded until it is needed.

    backbone: as `priorcodec backbones` lists them; weights: folder, file or Hub id of the backbone; adapter: a known name,
    a file, or OWNER/REPO/FILE.safetensors@COMMIT on the Hub (default: "default"); device: auto, cpu, cuda, ...; dtype: auto,
    float32, bfloat16 or float16; overrides: further `key=value` words as on the command line; encoder: another encoder's weight
    file; registry: one's own set of plugins.
    Raises:
        ConfigError: a setting that does not exist or has an impossible value.
    """
    given = {"backbone": backbone, "backbone.weights": weights, "adapter": adapter, "device": device, "dtype": dtype}
    words = [f"{key}={value}" for key, value in given.items() if value is not None]
    return Session(decode_config([*words, *overrides]), encoder=encoder, registry=registry)


def _pil(pixels: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(pixels)
