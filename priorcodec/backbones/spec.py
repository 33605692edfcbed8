"""What a diffusion backbone must state and do to be a guest of this codec. Imports no torch: listing backbones stays cheap."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from priorcodec.core.errors import ApiError, BackboneError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

API = 1
MAX_STEPS = 8  # calls of the denoiser for one image


class Prediction(enum.StrEnum):
    """What the denoiser's output means. `core.prediction` turns each into the clean latent before anybody else sees it."""

    NOISE = "noise"
    VELOCITY = "velocity"
    SAMPLE = "sample"
    FLOW = "flow"


@dataclass(frozen=True, kw_only=True)
class LoraRule:
    """Which modules get a LoRA, and how many that must be: a rule that matches another number is an error.

    pattern: regular expression, matched against the whole module path inside `Backbone.module`.
    modules, tiny_modules: exact number of matches in the full and in the tiny model. rank: default LoRA rank.
    """

    pattern: str
    modules: int
    tiny_modules: int
    rank: int = 16


@dataclass(frozen=True, kw_only=True)
class FusionSite:
    """A module whose output is fused with features of the file.

    module: path inside `Backbone.module`, the same in the full and the tiny model; channels, tiny_channels: width of its
    hidden state; stride: of that state's grid relative to the latent grid (1, 2, 4, ...).
    """

    module: str
    channels: int
    tiny_channels: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """The backbone's latent: z = (autoencoder output - shift) * scale; stride in pixels.

    mean, std: of z over natural images, per channel (length `channels`).
    """

    channels: int
    stride: int
    scale: float
    shift: float = 0.0
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone(Protocol):
    """A built backbone. z and x_t are (b, channels, h, w); images are (b, 3, h*stride, w*stride) in [-1, 1].

    module: the denoiser, the only part that LoRA and fusion touch.
    """

    module: nn.Module

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Cumulative signal fraction at time t in [0, 999]: (b,) -> (b,), falling from near 1 to near 0."""
        ...

    def predict(self, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
        """x_t, t (b,), tokens (b, n, token_dim), pooled (b, pooled_dim) -> (b, channels, h, w); extra channels dropped."""
        ...

    def to_latents(self, x: Tensor) -> Tensor:
        """Images -> z. Training only: no decoder may call it."""
        ...

    def to_pixels(self, z: Tensor) -> Tensor:
        """z -> images, not clamped."""
        ...


@runtime_checkable
class LowMemory(Protocol):
    """What a backbone has besides if its autoencoder can trade time for memory; `low_memory=true` asks for it."""

    def slice_pixels(self, on: bool = True) -> None:
        """Decode one image of a batch after the other."""
        ...

    def tile_pixels(self, on: bool = True) -> None:
        """Decode large images in overlapping tiles."""
        ...


class Build(Protocol):
    def __call__(self, weights: Path | None, *, dtype: torch.dtype) -> Backbone:
        """Load from a local folder or file; `None` builds the architecture alone (under torch's meta device too)."""
        ...


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One diffusion model that can decode a file.

    name: lower case, `family` or `family.tag`; summary: one line; family: "unet", "transformer", ...;
    license: SPDX or the model's own license name; source: Hub id or path inside this package;
    revision: 40 hex digits of a Hub commit, or 64 of the SHA-256 of a shipped file;
    parameters: of the denoiser, exact; token_dim, pooled_dim: width of the vectors that stand where text stood;
    size: side in pixels the model was trained at; pixel_bytes: memory that one pixel of a tile takes while it is decoded, weights
    apart, in float32, which sets the size of tiles; build: the full model; build_tiny: the same classes, tiny and random.

    Raises:
        ApiError: made for another plugin interface. BackboneError: a field is malformed.
    """

    name: str
    summary: str
    family: str
    license: str
    source: str
    revision: str
    parameters: int
    latent: LatentSpace
    prediction: Prediction
    token_dim: int
    pooled_dim: int = 0
    size: int = 512
    pixel_bytes: int = 8192
    lora: tuple[LoraRule, ...] = ()
    fusion: tuple[FusionSite, ...] = ()
    build: Build = field(repr=False)
    build_tiny: Callable[[], Backbone] = field(repr=False)
    api: int = API

    def __post_init__(self) -> None:
        if self.api != API:
            raise ApiError(
                f"backbone {self.name!r} wants plugin interface {self.api}, this PriorCodec has {API}: "
                f"upgrade {'priorcodec' if self.api > API else 'the plugin'}"
            )
        problems = []
        if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?", self.name):
            problems.append(f"name {self.name!r} is not lower case like 'sd15' or 'sd21.base'")
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.revision):
            problems.append(f"revision {self.revision!r} is not 40 or 64 hex digits")
        if {len(self.latent.mean), len(self.latent.std)} != {self.latent.channels}:
            problems.append(f"latent.mean and latent.std do not have {self.latent.channels} entries")
        if problems:
            raise BackboneError(f"backbone {self.name!r}: {'; '.join(problems)}")


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """Where a trained adapter of one backbone can be had.

    name: shown to people, e.g. "default"; location: local path, or "owner/repo/file.safetensors" on the Hub;
    revision: Hub commit (40 hex digits), empty for a local path; sha256: of the file, empty if not pinned.
    """

    name: str
    location: str
    revision: str = ""
    sha256: str = ""
