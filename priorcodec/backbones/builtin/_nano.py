"""What our own small backbones share: loading, and an f8 latent autoencoder of residual blocks on unshuffled images.

Working at strides 4 and 8 only is what makes it quick on two cores; the unshuffle is lossless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from priorcodec import BackboneSpec, WeightsError
from priorcodec.backbones.builtin._latent_diffusion import LatentDiffusion
from priorcodec.backbones.builtin._nano_layers import linear_betas_squared

AUTOENCODER_FILE = "nano_vae.safetensors"
LATENT_CHANNELS = 8
SCHEDULE = (0.00085, 0.012)  # first and last beta


class Block(nn.Module):
    """Two 3x3 convolutions added to their input; starts as the identity, which is what makes training quick."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(leaky_relu(self.conv1(x), 0.1))


class Polish(nn.Module):
    """Images (b, 3, H, W) -> the same with a correction made at stride 2, across the borders of the 4x4 shuffle."""

    def __init__(self, channels: int):
        super().__init__()
        self.correction = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, channels, 3, padding=1),
            Block(channels),
            nn.Conv2d(channels, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        last = cast(nn.Conv2d, self.correction[3])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.correction(x)


class Autoencoder(nn.Module):
    """Images (b, 3, H, W) in [-1, 1] <-> latents (b, 8, H/8, W/8), deterministic.

    Args:
        width4: Channels at stride 4.
        width8: Channels at stride 8.
        encoder: Blocks of the encoder at strides 4 and 8.
        decoder: Blocks of the decoder at strides 4 and 8.
        polish: Channels at stride 2.
    """

    def __init__(self, width4: int = 96, width8: int = 192, encoder=(1, 3), decoder=(4, 4), polish: int = 48):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(3 * 16, width4, 3, padding=1),
            *(Block(width4) for _ in range(encoder[0])),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * width4, width8, 1),
            *(Block(width8) for _ in range(encoder[1])),
            nn.Conv2d(width8, LATENT_CHANNELS, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, width8, 3, padding=1),
            *(Block(width8) for _ in range(decoder[1])),
            nn.Conv2d(width8, 4 * width4, 1),
            nn.PixelShuffle(2),
            *(Block(width4) for _ in range(decoder[0])),
            nn.Conv2d(width4, 3 * 16, 3, padding=1),
            nn.PixelShuffle(4),
            Polish(polish),
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def tiny_autoencoder() -> Autoencoder:
    return Autoencoder(width4=8, width8=8, encoder=(1, 1), decoder=(1, 1), polish=8)


class NanoDiffusion(LatentDiffusion):
    """A small denoiser in that autoencoder's latent space."""

    def to_latents(self, x: Tensor) -> Tensor:
        return (self.vae.encoder(x.to(self.vae.dtype)).to(x.dtype) - self.latent.shift) * self.latent.scale

    def slice_pixels(self, on: bool = True) -> None:
        """Nothing to do: this autoencoder has no global layers and little memory."""

    def tile_pixels(self, on: bool = True) -> None:
        """Nothing to do, as above."""

    def to_pixels(self, z: Tensor) -> Tensor:
        raw = z / self.latent.scale + self.latent.shift
        return self.vae.decoder(raw.to(self.vae.dtype)).to(z.dtype)


def load(
    spec: BackboneSpec,
    denoiser: Callable[[], nn.Module],
    predict: Callable[..., Tensor],
    weights: Path | None,
    *,
    dtype: torch.dtype,
    autoencoder: Callable[[], Autoencoder] = Autoencoder,
) -> NanoDiffusion:
    """The backbone from a safetensors file with the autoencoder's beside it, or with fresh weights for `weights=None`.

    From a file, the networks are made without content, so that no random numbers of the process are used.

    Raises:
        WeightsError: A file is missing, damaged, or not the one its partner was trained with.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes
    from safetensors.torch import load_file

    if weights is None:
        module, vae = denoiser(), autoencoder()
    else:
        try:
            data = (weights.parent / AUTOENCODER_FILE).read_bytes()
            wanted = _metadata(weights).get("autoencoder", "")
            if hashlib.sha256(data).hexdigest() != wanted:
                raise WeightsError(f"{spec.name}: {AUTOENCODER_FILE} beside {weights.name} is not the one it needs")
            with torch.device("meta"):
                module, vae = denoiser(), autoencoder()
            for network, values in ((module, load_file(weights)), (vae, from_bytes(data))):
                network.load_state_dict({name: value.to(dtype) for name, value in values.items()}, assign=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise WeightsError(f"{spec.name}: cannot load {weights} ({str(error).splitlines()[0]})") from error
    alphas = linear_betas_squared(*SCHEDULE)
    return NanoDiffusion(module.to(dtype), vae.to(dtype), alphas, spec.latent, predict)


def load_tiny(spec: BackboneSpec, denoiser: Callable[[], nn.Module], predict: Callable[..., Tensor]) -> NanoDiffusion:
    """A tiny denoiser and autoencoder with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone: `torch.manual_seed` seeds every GPU too
        module, autoencoder = denoiser(), tiny_autoencoder()
    return load(spec, lambda: module, predict, None, dtype=torch.float32, autoencoder=lambda: autoencoder)


def _metadata(weights: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        return dict(file.metadata() or {})
