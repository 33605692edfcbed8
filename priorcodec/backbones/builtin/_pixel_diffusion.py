"""Diffusion in pixel space, shared by our small backbones. z is the image itself, unshuffled; there is no autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec import BackboneSpec, Condition, LatentSpace, WeightsError
from priorcodec.backbones.builtin._latent_diffusion import at_time
from priorcodec.backbones.builtin._nano_layers import linear_betas_squared

SCHEDULE = (0.00085, 0.012)  # first and last beta, square roots linear in time


class PixelDiffusion(nn.Module):
    """module: the denoiser; predict: (module, x_t, t, alpha_bar, tokens) -> its output."""

    def __init__(self, module: nn.Module, latent: LatentSpace, predict: Callable[..., Tensor]):
        super().__init__()
        self.module, self.latent, self._predict = module, latent, predict
        self.alphas: Tensor
        self.register_buffer("alphas", linear_betas_squared(*SCHEDULE), persistent=False)
        self.requires_grad_(False).eval()

    def alpha_bar(self, t: Tensor) -> Tensor:
        """t (b,) in [0, 999], fractions interpolated -> (b,)."""
        return at_time(self.alphas, t)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        dtype, tokens = next(self.module.parameters()).dtype, condition.tokens
        assert tokens is not None  # for the type checker: both models take tokens
        output = self._predict(self.module, x_t.to(dtype), t, self.alpha_bar(t), tokens.to(dtype))
        return output.to(x_t.dtype)

    def to_latents(self, x: Tensor) -> Tensor:
        return (F.pixel_unshuffle(x, self.latent.stride) - self.latent.shift) * self.latent.scale

    def to_pixels(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(z / self.latent.scale + self.latent.shift, self.latent.stride)


def load(
    spec: BackboneSpec,
    denoiser: Callable[[], nn.Module],
    predict: Callable[..., Tensor],
    weights: Path | None,
    *,
    dtype: torch.dtype,
) -> PixelDiffusion:
    """The backbone from a safetensors file, or with fresh weights for `weights=None`.

    From a file, the network is made without content, so that no random numbers of the process are used.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if weights is None:
        module = denoiser()
    elif Path(weights).is_dir():
        raise WeightsError(f"{spec.name}: {weights} is a folder, wanted its .safetensors file")
    else:
        try:
            with torch.device("meta"):
                module = denoiser()
            values = {name: value.to(dtype) for name, value in load_file(weights).items()}
            module.load_state_dict(values, assign=True)
        except RuntimeError as error:
            raise WeightsError(
                f"{spec.name}: {weights} holds other tensors than this model has, wanted weights of {spec.name}"
            ) from error
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{spec.name}: cannot load {weights} ({str(error).splitlines()[0]})") from error
    return PixelDiffusion(module.to(dtype), spec.latent, predict)


def load_tiny(spec: BackboneSpec, denoiser: Callable[[], nn.Module], predict: Callable[..., Tensor]) -> PixelDiffusion:
    """A tiny denoiser with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone: `torch.manual_seed` seeds every GPU too
        module = denoiser()
    return load(spec, lambda: module, predict, None, dtype=torch.float32)
