"""Interface of a diffusion backbone: the data its author states (`BackboneSpec`) and the methods it implements (`Backbone`).

Imports no torch, so that listing backbones stays cheap.
"""

from __future__ import annotations

import enum
import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from priorcodec.core.errors import AdapterError, ApiError, BackboneError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

API = 1  # version of this interface; a plugin states the one it was written for
MAX_STEPS = 8  # denoiser calls per image
UNPINNED = "0" * 40  # `BackboneSpec.revision` of weights that are neither on the Hub nor in a file, e.g. computed ones


class Prediction(enum.StrEnum):
    """What the denoiser's output means; `backbones.diffusion.to_sample` converts each kind to the clean latent."""

    NOISE = "noise"
    VELOCITY = "velocity"
    SAMPLE = "sample"
    FLOW = "flow"


class ImageInput(enum.StrEnum):
    """What an image-conditioned denoiser gets of the file's preview; each is the field of `Condition` of that name."""

    PREVIEW = "preview"
    THUMBNAIL = "thumbnail"
    LATENT = "latent"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What `Backbone.predict` is conditioned on besides time. Fields that the spec does not request are None or empty.

    Attributes:
        tokens: Take the place of an encoded prompt (b, n, `token_dim`).
        more_tokens: The same for further text encoders, each (b, n, width), in the order of `more_token_dims`.
        pooled: Takes the place of a pooled prompt or an image embedding (b, `pooled_dim`).
        preview: The file's preview (b, 3, h * stride, w * stride), nominally in [-1, 1].
        thumbnail: Means of the preview on the latent grid (b, 3, h, w).
        latent: The preview in the latent space: the adapter's estimate of z (b, channels, h, w).
        features: What the adapter reads from the file for this backbone, on the latent grid (b, `feature_dim`, h, w).
    """

    tokens: Tensor | None = None
    more_tokens: tuple[Tensor, ...] = ()
    pooled: Tensor | None = None
    preview: Tensor | None = None
    thumbnail: Tensor | None = None
    latent: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LoraRule:
    """A set of modules that get a LoRA. It is an error if the number of matching modules differs from the stated one.

    Attributes:
        pattern: Regular expression, matched against the whole module path inside `Backbone.module`.
        modules: Exact number of matches in the full model; the tiny model may have any number but zero.
        rank: Default LoRA rank.
    """

    pattern: str
    modules: int
    rank: int = 16


@dataclass(frozen=True, kw_only=True)
class FusionSite:
    """A module of the denoiser whose output attends to features of the file.

    Its output contains image positions only: (b, channels, h, w), or (b, h * w, channels) for a transformer. A block that mixes
    text and image in one stream, or returns both, cannot be a site; the feed-forward layer of its image stream can.

    Attributes:
        module: Path inside `Backbone.module`, the same in the full and the tiny model.
        channels: Width of its hidden state in the full model.
        stride: Stride of its hidden state relative to the latent grid (1, 2, 4, ...).
    """

    module: str
    channels: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """The backbone's latent: z = (autoencoder output - shift) * scale.

    Attributes:
        channels: Number of channels.
        stride: Pixels per latent position, along each side.
        scale: Factor between autoencoder output and z.
        shift: Offset subtracted from the autoencoder output.
        mean: Mean of z over natural images, per channel.
        std: Standard deviation of z over natural images, per channel.
        pixels: Whether there is no autoencoder: z = (`pixel_unshuffle(x, stride)` - shift) * scale. An adapter's estimate of z
            then starts as the preview.
    """

    channels: int
    stride: int
    scale: float
    shift: float = 0.0
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: bool = False


class Backbone(Protocol):
    """A built backbone. z and x_t are (b, channels, h, w); images are (b, 3, h * stride, w * stride) in [-1, 1].

    The names of the arguments are part of the contract.

    Attributes:
        module: The denoiser, the only part that LoRA and fusion change.
    """

    module: nn.Module

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Cumulative signal fraction at time t in [0, 999]: (b,) -> (b,), falling from near 1 to near 0.

        x_t = sqrt(alpha_bar) z + sqrt(1 - alpha_bar) noise, for flow models too.
        """
        ...

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x_t (b, channels, h, w), t (b,) in [0, 999] -> the stated prediction, of the shape and dtype of x_t."""
        ...

    def to_latents(self, x: Tensor) -> Tensor:
        """Images -> z. For training only: decoding never calls it."""
        ...

    def to_pixels(self, z: Tensor) -> Tensor:
        """z -> images, not clamped."""
        ...


METHODS = ("alpha_bar", "predict", "to_latents", "to_pixels")
"""Of a `Backbone`."""


@runtime_checkable
class LowMemory(Protocol):
    """Optional methods of a backbone whose autoencoder can trade time for memory; used with `low_memory=True`."""

    def slice_pixels(self) -> None:
        """Decode the images of a batch one at a time."""
        ...

    def tile_pixels(self) -> None:
        """Decode large images in overlapping tiles."""
        ...


class Build(Protocol):
    """Signature of `BackboneSpec.build`."""

    def __call__(self, weights: Path | None, *, dtype: torch.dtype) -> Backbone:
        """Load from a local folder or file; `None` builds the architecture alone, also on torch's meta device."""
        ...


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """A diffusion model that can decode files.

    Attributes:
        name: Lower case, `model` or `model.variant`.
        summary: One line for listings.
        license: License of the weights, as an SPDX identifier or by the model's own name for it.
        source: Hub id ("owner/repo"), or path of the weight file inside the package.
        hub_revision: Commit on the Hub (40 hex digits); empty when the weights are not on the Hub.
        sha256: SHA-256 of the weight file (64 hex digits); empty when the weights are not one file.
        denoiser_subfolder: Folder of the denoiser in a Hub repository with a diffusers layout, such as "unet" or "transformer",
            or "." for the repository's own folder; empty when the weights have another layout.
        autoencoder_subfolder: Folder of the autoencoder, of whatever class, in such a repository; empty for none.
        scheduler_subfolder: Folder of the scheduler's config in such a repository, "." as above; empty for none.
        parameters: Exact number of parameters of the denoiser.
        latent: Latent space of the autoencoder.
        prediction: Meaning of the denoiser's output.
        token_dim: Width of the conditioning tokens (the text encoder's width in the original model), 0 for none.
        more_token_dims: Widths of further sequences of tokens, of a model with several text encoders.
        pooled_dim: Width of the pooled conditioning vector, 0 for none.
        image_inputs: What `predict` needs of the file's preview.
        feature_dim: Channels of the features on the latent grid that `predict` needs, 0 for none.
        size: Side in pixels of the images the model was trained on.
        max_size: Largest side in pixels that the denoiser takes, a multiple of 64 from 192 up; 0 for any. Larger images are
            split into tiles of at most this side, margins included.
        pixel_bytes: Peak memory per pixel of a tile while decoding in float32, weights excluded; sets the tile size.
        gpu_dtype: Floating-point type to decode in on a GPU: "bfloat16", "float16" or "float32".
        low_memory: Whether the autoencoder should work in slices and tiles unless the user says otherwise.
        lora: Modules that get a LoRA.
        fusion: Modules whose output attends to features of the file. Optional: without any, the file enters through the estimate
            of z, the condition and LoRA.
        build: Builds the full model.
        build_tiny: Builds the same classes with tiny widths and fixed random weights, for tests.
        api: Version of this interface that the plugin was written for.

    Raises:
        ApiError: `api` is another version than `API`.
        BackboneError: A field is malformed.
    """

    name: str
    summary: str
    license: str
    source: str
    hub_revision: str = ""
    sha256: str = ""
    denoiser_subfolder: str = ""
    autoencoder_subfolder: str = "vae"
    scheduler_subfolder: str = "scheduler"
    parameters: int
    latent: LatentSpace
    prediction: Prediction
    token_dim: int = 0
    more_token_dims: tuple[int, ...] = ()
    pooled_dim: int = 0
    image_inputs: tuple[ImageInput, ...] = ()
    feature_dim: int = 0
    size: int = 512
    max_size: int = 0
    pixel_bytes: int = 8192
    gpu_dtype: str = "bfloat16"
    low_memory: bool = False
    lora: tuple[LoraRule, ...] = ()
    fusion: tuple[FusionSite, ...] = ()
    build: Build = field(repr=False)
    build_tiny: Callable[[], Backbone] = field(repr=False)
    api: int = API

    @property
    def revision(self) -> str:
        """The exact version of the weights that an adapter is bound to: `sha256`, or else `hub_revision`."""
        return self.sha256 or self.hub_revision or UNPINNED

    def __post_init__(self) -> None:
        if isinstance(self.api, int) and self.api != API:
            raise ApiError(
                f"backbone {self.name!r} wants plugin interface {self.api}, this PriorCodec has {API}: "
                f"upgrade {'priorcodec' if self.api > API else 'the plugin'}"
            )
        if problems := _wrong_kinds(self):
            raise BackboneError(f"backbone {self.name!r}: {'; '.join(problems)}")
        object.__setattr__(self, "prediction", Prediction(self.prediction))  # "flow" is as good as Prediction.FLOW
        object.__setattr__(self, "image_inputs", tuple(ImageInput(value) for value in self.image_inputs))
        if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?", self.name):
            problems.append(f"name {self.name!r} is not lower case like 'sd15' or 'sd21.base'")
        for key, digits in (("hub_revision", 40), ("sha256", 64)):
            value = getattr(self, key)
            if value and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                problems.append(f"{key} {value!r} is not {digits} hex digits")
        for key in ("denoiser_subfolder", "autoencoder_subfolder", "scheduler_subfolder"):
            value = getattr(self, key)
            if value and value != "." and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", value):
                problems.append(f"{key} {value!r} is not a folder inside a repository like 'unet'")
        if self.more_token_dims and not self.token_dim:
            problems.append("more_token_dims is stated without token_dim: state the first width there")
        if self.max_size and (self.max_size < 192 or self.max_size % 64):
            problems.append(f"max_size {self.max_size} is not a multiple of 64 from 192 up, nor 0 for any")
        problems += _wrong_numbers(self)
        for rule in self.lora:
            try:
                re.compile(rule.pattern)
            except re.error as error:
                problems.append(f"LoRA pattern {rule.pattern!r} does not compile: {error}")
        if self.gpu_dtype not in ("bfloat16", "float16", "float32"):
            problems.append(f"gpu_dtype {self.gpu_dtype!r} is not bfloat16, float16 or float32")
        if {len(self.latent.mean), len(self.latent.std)} != {self.latent.channels}:
            problems.append(f"latent.mean and latent.std do not have {self.latent.channels} entries")
        if self.latent.pixels and self.latent.channels != 3 * self.latent.stride**2:
            problems.append(
                f"latent.pixels wants {3 * self.latent.stride**2} channels, latent.channels is {self.latent.channels}"
            )
        if problems:
            raise BackboneError(f"backbone {self.name!r}: {'; '.join(problems)}")


def _wrong_numbers(spec: BackboneSpec) -> list[str]:
    """One phrase for each number out of its range."""
    latent = spec.latent
    found = [
        f"{name} is {getattr(spec, name)}, wanted above 0"
        for name in ("parameters", "size", "pixel_bytes")
        if not getattr(spec, name) > 0
    ]
    found += [
        f"{name} is {getattr(spec, name)}, wanted 0 or more"
        for name in ("token_dim", "pooled_dim", "feature_dim")
        if getattr(spec, name) < 0
    ]
    if min(spec.more_token_dims, default=1) <= 0:
        found.append(f"more_token_dims is {spec.more_token_dims}, wanted all above 0")
    if latent.stride <= 0 or latent.stride & (latent.stride - 1):
        found.append(f"latent.stride {latent.stride} is not a power of 2")
    if not latent.scale > 0:
        found.append(f"latent.scale is {latent.scale}, wanted above 0")
    if not all(value > 0 for value in latent.std):
        found.append(f"latent.std is {latent.std}, wanted all above 0")
    return found


def _wrong_kinds(record: Any, prefix: str = "") -> list[str]:
    """One phrase for each field whose value is not of the kind that its annotation states."""
    found = []
    for key, kind in _kinds(type(record)).items():
        value, many = getattr(record, key), get_origin(kind) is tuple
        if many and not isinstance(value, tuple):
            found.append(f"{prefix}{key} is {value!r}, wanted a tuple")
            continue
        wanted = get_args(kind)[0] if many else kind
        for one in value if many else (value,):
            if words := _misfit(one, wanted):
                found.append(f"{prefix}{key} {'has' if many else 'is'} {one!r}, wanted {words}")
            elif isinstance(one, LatentSpace | LoraRule | FusionSite):
                found += _wrong_kinds(one, f"{prefix}{key}.")
    return found


_kinds = functools.cache(get_type_hints)
"""Class -> the kinds of its fields; evaluating annotations takes longer than all checks."""


def _misfit(value: Any, kind: Any) -> str:
    """What was wanted instead, or ""."""
    if kind is Build or get_origin(kind) is not None:
        return "" if callable(value) else "a function"
    if issubclass(kind, enum.Enum):
        return "" if value in list(kind) else ", ".join(map(str, kind.__members__.values()))
    good = isinstance(value, int | float) and math.isfinite(value) if kind is float else isinstance(value, kind)
    if good and (kind is bool or not isinstance(value, bool)):
        return ""
    return {str: "text", int: "a whole number", float: "a finite number", bool: "True or False"}.get(
        kind, kind.__name__
    )


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """Where to get a trained adapter of one backbone.

    Attributes:
        name: Name that users select the adapter by, e.g. "default".
        location: Local path, or "owner/repo/file.safetensors" on the Hub.
        revision: Commit on the Hub (40 hex digits); empty for a local path.
        sha256: SHA-256 of the file; empty if not pinned.
    """

    name: str
    location: str
    revision: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if problems := _wrong_kinds(self):
            raise AdapterError(f"adapter {self.name!r}: {'; '.join(problems)}")
        if not self.name or not self.name.isprintable():
            raise AdapterError(f"adapter {self.name!r}: wanted a name of one printable line")
