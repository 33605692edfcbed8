"""Public API: a `Session` encodes images to .gic files and decodes them through one backbone.

    image --core.codec--> file --core.codec--> features --adapters.decode: adapter + backbone--> image

Encoding and previews load no diffusion code; the backbone is loaded when the first image is decoded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from priorcodec.adapters import hub
from priorcodec.backbones.spec import BackboneSpec, LowMemory
from priorcodec.config import DecodeConfig, Dtype, Renorm, decode_config
from priorcodec.core import checks, rate_control
from priorcodec.core.errors import (
    AdapterError,
    ConfigError,
    DryRunWarning,
    PrecisionWarning,
    PriorCodecError,
    StreamError,
    warn_caller,
)
from priorcodec.core.image import io as image_io
from priorcodec.core.io.names import printable
from priorcodec.core.io.reading import Data, read_file

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from priorcodec.adapters.adapter import Adapter
    from priorcodec.core.codec import Codec
    from priorcodec.core.latent_refinement import Metric, RefineConfig
    from priorcodec.core.tiling import Plan
    from priorcodec.core.types import Decoded, Encoded
    from priorcodec.registry import Registry


class EncodedImage(bytes):
    """The bytes of a .gic file, with its properties as attributes.

    Attributes:
        quality: Quality in levels, 0 to 11.
        bpp: Bits per pixel of the whole file.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        details: The codec's record: estimated bits, parsed file, hash of the symbols, outcome of refinement.
        note: Why the file is more than 3% below the target that was given; empty if it is not.
    """

    quality: float
    bpp: float
    width: int
    height: int
    details: Encoded
    note: str

    @classmethod
    def of(cls, details: Encoded, note: str = "") -> EncodedImage:
        """Make one from the codec's record."""
        from priorcodec.core.entropy.tables import QUALITY_STEPS

        image, parts = cls(details.data), details.container
        image.quality, image.width, image.height = parts.quality / QUALITY_STEPS, parts.width, parts.height
        image.bpp = 8 * len(image) / (image.width * image.height)
        image.details, image.note = details, note
        return image


_LOADING = threading.RLock()
"""Held while anything is loaded, in whatever session: diffusers replaces functions of torch for all threads meanwhile."""


class Session:
    """Encodes and decodes with one set of settings; made by `open_session`. Safe to use from several threads.

    A session is a context manager that frees its networks at the end.

    Args:
        config: Settings of the decoder.
        encoder: Weight file of an encoder other than the shipped one.
        registry: Plugins to use; opened when first needed if None.

    Attributes:
        config: Settings of the decoder; replaced by `to`, never changed.
    """

    def __init__(self, config: DecodeConfig, *, encoder: Path | None = None, registry: Registry | None = None):
        self.config = _settled(config)
        self._encoder_file = None if encoder is None else encoder.expanduser().absolute()
        self._registry = registry
        self._codec: Codec | None = None
        self._adapter: Adapter | None = None
        self._precise: Adapter | None = None  # in float32, for images that overflow in the session's own dtype

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Session cannot be pickled or copied: open one in each process, open_session(config=session.config)"
        )

    def close(self) -> None:
        """Free the networks. The session can still be used: they are loaded again when needed."""
        with _LOADING:
            self._codec = self._adapter = self._precise = None

    def to(self, device: str | torch.device) -> Session:
        """Move to another device ("cpu", "cuda", "cuda:1", ...) and return the session; loaded networks are loaded again there.

        Not while another thread encodes or decodes with this session.

        Raises:
            ConfigError: The device cannot be used.
        """
        config = _settled(dataclasses.replace(self.config, device=str(device)))
        _torch_device(config.device)
        with _LOADING:
            self.close()
            self.config = config
        return self

    @property
    def codec(self) -> Codec:
        """The fixed encoder and its entropy model, loaded when first used."""
        import torch

        from priorcodec.core.codec import Codec

        if (codec := self._codec) is not None:  # without waiting for what another session loads
            return codec
        with _LOADING, torch.inference_mode(False):  # in the caller's, its tensors could never have a gradient
            if self._codec is None:
                self._codec = Codec(self._encoder_file, device=self.device, tile=self.config.tile)
            return self._codec

    @property
    def registry(self) -> Registry:
        """The plugins, opened when first used."""
        from priorcodec.registry import open_registry

        if (registry := self._registry) is not None:
            return registry
        with _LOADING:
            if self._registry is None:
                self._registry = open_registry()
            return self._registry

    @property
    def spec(self) -> BackboneSpec:
        """The backbone of this session. Raises BackboneError: no such backbone."""
        return self.registry.spec(self.config.backbone)

    @property
    def adapter(self) -> Adapter:
        """The adapter, merged into its loaded backbone; both are loaded when first used.

        Raises:
            WeightsError, AdapterError, BackboneError: The decoder is not complete.
        """
        if (adapter := self._adapter) is not None:
            return adapter
        with _LOADING:
            if self._adapter is None:
                self._adapter = self._load_adapter(self.dtype)
            return self._adapter

    @property
    def device(self) -> torch.device:
        """Where the networks run. Raises ConfigError: it cannot be used here."""
        return _torch_device(self.config.device)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the denoiser."""
        import torch

        return getattr(torch, Dtype(self.config.dtype).on(self.device.type, self.spec))

    @property
    def tile(self) -> int:
        """Side in pixels of the tiles the backbone works on, 0 for whole images."""
        from priorcodec.adapters import decode as adapter_decode

        side = self._tile
        largest = self.spec.max_size - 2 * adapter_decode.MARGIN if self.spec.max_size else side
        return min(side or largest, largest)

    @property
    def _tile(self) -> int:
        """`tile` of a backbone that takes any size."""
        from priorcodec.adapters import decode as adapter_decode

        side = self.config.tile
        return adapter_decode.automatic(self.spec.pixel_bytes, self.device) if side is None else side

    def plan(self, height: int, width: int) -> Plan:
        """The tiles that the backbone decodes an image of that size in."""
        from priorcodec.adapters import decode as adapter_decode
        from priorcodec.core import tiling

        longest = max(height, width)  # one tile needs no margins, which `tile` leaves room for
        whole = longest <= self.spec.max_size and longest <= (self._tile or longest)
        return tiling.plan(height, width, 0 if whole else self.tile, adapter_decode.MARGIN)

    def encode(
        self,
        image: Any,
        quality: float | None = None,
        *,
        bpp: float | None = None,
        max_bytes: int | None = None,
        background: str | None = None,
        statistics: bool = False,
        layers: Collection[str] = ("latent",),
        residual: float | None = None,
        roi: Sequence[tuple[int, int, int, int]] = (),
        refine: int = 0,
        refine_metric: Metric = "psnr",
        progress: Callable[[int], None] | None = None,
    ) -> EncodedImage:
        """Encode one image. At most one of `quality`, `bpp` and `max_bytes` may be given; none means quality 6.

        Args:
            image: Path, bytes, binary file object or PIL image; uint8 array (h, w), (h, w, 1), (h, w, 2: gray and alpha),
                (h, w, 3) or (h, w, 4); tensor (3, h, w) or (1, 3, h, w), uint8 or floating point in [-1, 1].
            quality: In levels, 0 (smallest file) to 11; fractions are allowed.
            bpp: Largest bits per pixel of the true size; the largest file within it is made.
            max_bytes: Largest size of the file in bytes; the largest file within it is made.
            background: Color behind transparency, such as "white" or "#rrggbb".
            statistics: Write the image's color statistics, which decoding with renorm="written" needs.
            layers: What is written: "semantic" (regions and their texture), "latent", "residual" (what the latent leaves).
            residual: How much of the residual is written, 0 to 10; None for all of it if `layers` or `roi` asks for one.
            roi: Regions of interest (x, y, width, height) in pixels: the residual is written for these alone.
            refine: Steps of latent refinement, 0 to 10000.
            refine_metric: Distortion that refinement minimizes: "psnr", or "gmsd" for mostly the strength of edges.
            progress: Called with the number of refinement steps done.

        Raises:
            ImageError: The image is unreadable, or transparent without a background.
            ConfigError: An impossible setting, or a target below the smallest file of this image.
            WeightsError: The encoder's or a layer's weights are missing, damaged or of another encoder.
        """
        quality = None if quality is None else checks.number("quality", quality)
        bpp = None if bpp is None else checks.number("bpp", bpp)
        max_bytes = None if max_bytes is None else checks.whole("max_bytes", max_bytes)
        refine = checks.whole("refine", refine)
        checks.flag("statistics", statistics)
        if not (background is None or isinstance(background, str)):
            raise ConfigError(f"background={background!r}: wanted a color such as 'white' or '#rrggbb'")
        if not (progress is None or callable(progress)):
            raise ConfigError(f"progress={progress!r}: wanted a function of the number of steps done")
        if sum(value is not None for value in (quality, bpp, max_bytes)) > 1:
            raise ConfigError(f"got quality={quality}, bpp={bpp}, max_bytes={max_bytes}, wanted at most one of them")
        from priorcodec.core.layers.settings import layer_config

        refinement = _refinement(refine, refine_metric, progress)
        wanted = layer_config(layers, residual, roi)
        if "latent" not in wanted.layers and not quality is bpp is max_bytes is None:
            raise ConfigError(
                "got a quality or size for a file without a latent, whose size the image decides: add latent"
            )
        pixels = image_io.from_any(image, background=background, max_pixels=self.config.max_pixels).pixels
        request: Any = {"statistics": statistics, "layers": wanted, "refined": refinement}
        with self._own_state():
            if bpp is None and max_bytes is None:
                return EncodedImage.of(
                    self.codec.encode(pixels, rate_control.DEFAULT_QUALITY if quality is None else quality, **request)
                )
            target = rate_control.target_bytes(max_bytes, bpp, *pixels.shape[:2])
            found = self.codec.encode_to(pixels, target, **request)
            return EncodedImage.of(found.encoded, found.note() or "")

    @overload
    def decode(self, data: Data, *, output: Literal["pil"] = "pil") -> Image: ...
    @overload
    def decode(self, data: Data, *, output: Literal["np"]) -> np.ndarray: ...
    @overload
    def decode(self, data: Data, *, output: Literal["pt"]) -> Tensor: ...
    @overload
    def decode(self, data: Sequence[Data], *, output: Literal["pil"] = "pil") -> list[Image]: ...
    @overload
    def decode(self, data: Sequence[Data], *, output: Literal["np"]) -> list[np.ndarray]: ...
    @overload
    def decode(self, data: Sequence[Data], *, output: Literal["pt"]) -> list[Tensor]: ...
    def decode(self, data: Data | Sequence[Data], *, output: str = "pil") -> Any:
        """Decode a file through the backbone, in its true size; a list of files gives a list of images.

            file -> y_hat --adapter, `steps` calls--> z --renorm=predicted--> z --to_pixels, blend--> x
                 --crop, renorm=written--> image

        An image that overflows in half precision is decoded again in float32, with a PrecisionWarning.

        Args:
            data: Bytes, path or binary file object of a .gic file, or a list or tuple of them.
            output: "pil" for a PIL image, "np" for uint8 (h, w, 3), "pt" for a float32 tensor (3, h, w) in [-1, 1].

        Raises:
            StreamError: Damaged or foreign bytes, or renorm="written" for a file without statistics.
            WeightsError, AdapterError, BackboneError: The decoder is not complete.
            PriorCodecError: Values are not finite in float32 either.
        """
        return self._convert(self._decode, data, output)

    @overload
    def preview(self, data: Data, *, output: Literal["pil"] = "pil", perceptual: bool = False) -> Image: ...
    @overload
    def preview(self, data: Data, *, output: Literal["np"], perceptual: bool = False) -> np.ndarray: ...
    @overload
    def preview(self, data: Data, *, output: Literal["pt"], perceptual: bool = False) -> Tensor: ...
    @overload
    def preview(
        self, data: Sequence[Data], *, output: Literal["pil"] = "pil", perceptual: bool = False
    ) -> list[Image]: ...
    @overload
    def preview(self, data: Sequence[Data], *, output: Literal["np"], perceptual: bool = False) -> list[np.ndarray]: ...
    @overload
    def preview(self, data: Sequence[Data], *, output: Literal["pt"], perceptual: bool = False) -> list[Tensor]: ...
    def preview(self, data: Data | Sequence[Data], *, output: str = "pil", perceptual: bool = False) -> Any:
        """Decode a file with an auxiliary decoder, without a backbone.

        Args:
            data: As for `decode`.
            output: As for `decode`.
            perceptual: Use the decoder trained with a perceptual loss instead of the one trained for MSE.

        Raises:
            StreamError: Damaged or foreign bytes.
        """
        checks.flag("perceptual", perceptual)
        return self._convert(functools.partial(self._preview, perceptual=perceptual), data, output)

    def _convert(self, decode: Callable[[bytes], np.ndarray], data: Data | Sequence[Data], output: str) -> Any:
        """Apply `decode`, which gives uint8 (h, w, 3), to one file or several, and convert the result."""
        if not isinstance(output, str) or output not in OUTPUTS:
            raise ConfigError(f"output={output!r}: wanted {', '.join(OUTPUTS)}")
        if isinstance(data, list | tuple):
            return [self._convert(decode, one, output) for one in data]
        with self._own_state():
            content = read_file(data)  # pyright: ignore[reportArgumentType]
            try:
                return OUTPUTS[output](decode(content))
            except StreamError as error:
                if isinstance(data, str | os.PathLike):
                    raise StreamError(f"{printable(os.fsdecode(data))}: {error}") from error
                raise

    @contextlib.contextmanager
    def _own_state(self) -> Iterator[None]:
        """Without the caller's autocast and default device: a file and an image depend on the session's settings alone."""
        import torch

        foreign = torch.get_default_device().type != "cpu"  # torch.device as a context slows every function of torch
        with (
            torch.autocast(self.device.type, enabled=False),
            torch.device("cpu") if foreign else contextlib.nullcontext(),
        ):
            yield

    def _read(self, data: bytes) -> Decoded:
        return self.codec.decode(data, max_pixels=self.config.max_pixels, layers=self.config.layer_names)

    def _preview(self, data: bytes, *, perceptual: bool) -> np.ndarray:
        decoded = self._read(data)
        return self.codec.preview(decoded, perceptual=perceptual)

    def _decode(self, data: bytes) -> np.ndarray:
        """uint8 (h, w, 3)."""
        import torch

        decoded = self._read(data)
        if self.config.renorm is Renorm.written and decoded.statistics is None:
            raise StreamError(
                "renorm=written, but the file has no statistics: write it with `encode --statistics`, or decode with renorm=none"
            )
        if self.config.blend == 0:
            return self._preview_image(decoded)
        adapter = self.adapter  # loaded outside inference mode, so that its tensors can be used anywhere
        with torch.inference_mode():
            try:
                return self._image(adapter, decoded)
            except FloatingPointError:
                return self._image_in_float32(decoded)

    def _preview_image(self, decoded: Decoded) -> np.ndarray:
        """`_image` for blend=0: no backbone."""
        from priorcodec.adapters import decode as adapter_decode

        written = decoded.statistics if self.config.renorm is Renorm.written else None
        return adapter_decode.preview_image(decoded, self.codec.preview_tensor(decoded), written=written)

    def _image(self, adapter: Adapter, decoded: Decoded) -> np.ndarray:
        """uint8 (h, w, 3). Raises FloatingPointError when a value in it or its latent is not finite."""
        from priorcodec.adapters import decode as adapter_decode
        from priorcodec.core.moments import match_moments

        plan = self.plan(decoded.height, decoded.width)
        preview = self.codec.preview_tensor(decoded, perceptual=True)
        found = adapter_decode.latent(adapter, decoded, preview, plan, steps=self.config.steps)
        if self.config.renorm is Renorm.predicted:
            if found.mean is None or found.std is None:
                raise AdapterError(
                    f"renorm=predicted, but adapter {self.config.adapter!r} of {self.config.backbone} predicts no "
                    "moments: decode with renorm=none"
                )
            found = dataclasses.replace(found, z=match_moments(found.z, found.mean, found.std))
        written = decoded.statistics if self.config.renorm is Renorm.written else None
        blend = self.config.blend
        least = None if blend == 1 else self.codec.preview_tensor(decoded)
        return adapter_decode.image(adapter, decoded, found, plan, blend=blend, least=least, written=written)

    def _image_in_float32(self, decoded: Decoded) -> np.ndarray:
        """Decode after an overflow, with a second copy of the model. Raises PriorCodecError: it does not help."""
        import torch

        name, dtype = self.config.backbone, str(self.dtype).removeprefix("torch.")
        pixels = None
        if dtype != "float32":
            with _LOADING:
                if self._precise is None:
                    self._precise = self._load_adapter(torch.float32)
                precise = self._precise
            try:
                pixels = self._image(precise, decoded)
            except FloatingPointError:
                pixels = None
        if pixels is None:
            raise PriorCodecError(
                f"{name} answered with values that are not finite, in float32 too: its weights or its adapter are damaged, "
                "get them again"
            )
        warn_caller(
            PrecisionWarning,
            f"{name} overflowed in {dtype}, so this image was decoded in float32: dtype=float32 is quicker",
        )
        return pixels

    def _load_adapter(self, dtype: torch.dtype) -> Adapter:
        """A newly built backbone and, merged into it, the adapter."""
        import torch

        from priorcodec.adapters.adapter import Adapter

        # Whatever the caller's inference mode and default device are.
        with torch.inference_mode(False), torch.device("cpu"):
            spec, codec = self.spec, self.codec
            path, config = self.registry.adapter(spec, self.config.adapter), codec.transforms.config
            adapter = Adapter.open(path, spec, encoder_id=codec.id, m=config.m, levels=codec.levels)
            if adapter.tiny:
                warn_caller(
                    DryRunWarning,
                    f"{path.name} is of a dry run (tiny=true): decoding through the tiny random model of {spec.name}, which "
                    "shows that the parts fit and makes no image to look at",
                )
                weights = None
            else:
                weights = self.registry.weights(spec, self.config.weights)
            built: Any = self.registry.build(spec, weights, dtype=dtype, tiny=adapter.tiny)
            backbone: Any = built.to(self.device)
            low_memory = spec.low_memory if self.config.low_memory is None else self.config.low_memory
            saver = backbone if low_memory else None
            if isinstance(saver, LowMemory):
                saver.slice_pixels()
                saver.tile_pixels()
            adapter.to(self.device)
            adapter.merge(backbone, keep=False)
            _channels_last(adapter)
            _channels_last(backbone.module)
            return adapter


def open_session(
    backbone: str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    steps: int | None = None,
    renorm: Literal["none", "predicted", "written"] | None = None,
    blend: float | None = None,
    low_memory: bool | None = None,
    max_pixels: int | None = None,
    tile: int | None = None,
    layers: str | Sequence[str] | None = None,
    encoder: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    config: DecodeConfig | str | os.PathLike[str] | None = None,
) -> Session:
    """Open a session. Nothing is loaded until it is needed; relative paths are resolved now.

    A setting that is None is taken from `config`, or has its default if there is none.

    Args:
        backbone: Name of a backbone, nano_pixel by default; `list_backbones` lists them.
        weights: Folder, file or OWNER/REPO@COMMIT of the backbone's weights; by default the spec's own source.
        adapter: Name of a known adapter, by default "default", a .safetensors file, a folder that training wrote, or
            OWNER/REPO/FILE.safetensors@COMMIT on the Hub.
        device: "auto" (the default), "cpu", "cuda", "cuda:1", "mps", ...
        dtype: "auto" (the default), "float32", "bfloat16" or "float16", of the denoiser.
        steps: Denoiser calls, 1 (the default) to 8.
        renorm: "none" (the default), "predicted" (match the latent moments that the adapter predicts) or "written" (match the
            image statistics in the file).
        blend: Share of the backbone's image, 0 (the preview) to 1 (the default).
        low_memory: Let the autoencoder work in slices and tiles; by default what the backbone recommends.
        max_pixels: Refuse images and files with more pixels, by default 2**26.
        tile: Side in pixels of the tiles that larger images are split into; by default what memory allows; 0 for no tiles.
        layers: Layers of the file to decode: "semantic", "latent", "residual"; by default all. What follows may be missing.
        encoder: Weight file of an encoder other than the shipped one.
        registry: Plugins to use; None for all that are installed.
        config: A `DecodeConfig` or a YAML file with its fields, for the settings that are not given.

    Raises:
        ConfigError: A setting has an impossible value.
    """
    for key, value in (("weights", weights), ("adapter", adapter), ("encoder", encoder)):
        if not (value is None or isinstance(value, str | os.PathLike)):
            raise ConfigError(f"{key}={value!r}: wanted a name or a path")
    if not (registry is None or hasattr(registry, "specs")):
        raise ConfigError(f"registry={registry!r}: wanted what open_registry() gives")
    given = {
        "backbone": backbone,
        "weights": None if weights is None else os.fsdecode(weights),
        "adapter": None if adapter is None else os.fsdecode(adapter),
        "device": None if device is None else str(device),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "steps": steps,
        "renorm": renorm,
        "blend": blend,
        "low_memory": low_memory,
        "max_pixels": max_pixels,
        "tile": tile,
        "layers": layers,
    }
    if layers is not None and not isinstance(layers, str):
        if not isinstance(layers, Collection):
            raise ConfigError(f"layers={layers!r}: wanted names of layers")
        given["layers"] = ",".join(map(str, layers))
    base = DecodeConfig()
    if isinstance(config, DecodeConfig):
        base = config
    elif isinstance(config, str | os.PathLike):
        base = decode_config(file=Path(os.fsdecode(config)))
    elif config is not None:
        raise ConfigError(f"config={config!r}: wanted a DecodeConfig or the path of a YAML file")
    settings = dataclasses.replace(base, **{key: value for key, value in given.items() if value is not None})
    return Session(settings, encoder=None if encoder is None else Path(os.fsdecode(encoder)), registry=registry)


def list_backbones(pattern: str = "*", *, registry: Registry | None = None) -> list[str]:
    """Names of the backbones that match a shell pattern such as "sd*", in the order in which plugins state them.

    Args:
        pattern: As for `fnmatch`.
        registry: Plugins to use; None for all that are installed.
    """
    from priorcodec.registry import open_registry

    return fnmatch.filter((registry or open_registry()).specs(), pattern)


def _settled(config: DecodeConfig) -> DecodeConfig:
    """A copy with members of the enumerations and absolute paths. Raises ConfigError: an impossible value."""
    config, problems = dataclasses.replace(config), []
    for key, kind in (("dtype", Dtype), ("renorm", Renorm)):
        value = getattr(config, key)
        try:
            setattr(config, key, kind(value))
        except ValueError:
            problems.append(f"{key}={value}: wanted {', '.join(kind)}")
    for key in ("backbone", "adapter", "device"):
        if not isinstance(value := getattr(config, key), str):
            problems.append(f"{key}={value!r}: wanted a name")
    for key in ("steps", "blend", "max_pixels", "tile", "low_memory"):
        value, kind = getattr(config, key), {"blend": checks.number, "low_memory": checks.flag}.get(key, checks.whole)
        if value is None and key in ("tile", "low_memory"):
            continue
        try:
            setattr(config, key, kind(key, value))
        except ConfigError as error:
            problems.append(str(error))
    problems = problems or config.problems()
    if problems:
        raise ConfigError(
            "\n".join([f"{len(problems)} invalid settings:", *problems]) if len(problems) > 1 else problems[0]
        )
    if config.weights is not None and os.path.lexists(config.weights):
        config.weights = os.path.abspath(config.weights)
    inside = os.path.join(config.adapter, hub.file_name(config.backbone))
    named = config.adapter.endswith(".safetensors") or os.sep in config.adapter or os.path.isfile(inside)
    if config.adapter != "default" and named and os.path.lexists(config.adapter):
        config.adapter = os.path.abspath(config.adapter)
    return config


def _channels_last(module: nn.Module) -> None:
    """Weights of 2-D convolutions in the order that their kernels read: a fourth less time for nano_pixel on the CPU."""
    import torch

    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _torch_device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name} cannot be used here ({str(error).splitlines()[0]}): try cpu") from error


def _refinement(steps: int, metric: Metric, progress: Callable[[int], None] | None) -> RefineConfig | None:
    """The request that the codec takes, None for 0 steps. Raises ConfigError: not 0 to 10000 steps, or another metric."""
    from priorcodec.core.latent_refinement import RefineConfig

    request = RefineConfig(steps=steps or 1, metric=metric, progress=progress)  # a wrong metric fails at 0 steps too
    return request if steps else None


def _pil(pixels: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(pixels)


def _tensor(pixels: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1  # whatever the default type is


OUTPUTS: dict[str, Callable[[Any], Any]] = {"pil": _pil, "np": lambda pixels: pixels, "pt": _tensor}
