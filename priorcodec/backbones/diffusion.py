"""Diffusion arithmetic: conversion of every prediction type to the clean latent, and a sampler with few denoiser calls.

Variance preserving throughout: x_t = sqrt(a) z + sqrt(1 - a) n with a = alpha_bar(t). A flow model sees the same point
rescaled to its own straight path, x = (1 - s) z + s n. After k-diffusion's external.py:
    noise    n                                z = (x_t - sqrt(1-a) n) / sqrt(a)            Ho et al. 2020, eq. 9
    velocity sqrt(a) n - sqrt(1-a) z          z = sqrt(a) x_t - sqrt(1-a) v                Salimans & Ho 2022, app. D
    sample   z                                z
    flow     n - z                            z = x - s v                                  Lipman et al. 2023

Sampling: z_hat --sqrt(a)--> x_t --predict--> z --add_noise at a smaller t--> x_t --predict--> z ...   (steps calls in all)
One call (OSCAR, 2025): quantization error stands in for the noise, so none is added. More calls: the clean estimate is noised
again on a falling time grid, as consistency models are sampled (Song et al. 2023, algorithm 1); the noise is seeded by the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from priorcodec.backbones.spec import MAX_STEPS, Prediction
from priorcodec.core.errors import ConfigError


def add_noise(z: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """z, noise (b, c, h, w), alpha_bar (b,) -> x_t."""
    a = _expand(alpha_bar, z)
    return a.sqrt() * z + (1 - a).sqrt() * noise


def to_input(x_t: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """x_t in the form that this kind of denoiser was trained on."""
    if prediction is not Prediction.FLOW:
        return x_t
    a = _expand(alpha_bar, x_t)
    return x_t / (a.sqrt() + (1 - a).sqrt())


def to_sample(output: Tensor, x_t: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Denoiser output (b, c, h, w) at x_t -> estimate of the clean latent z."""
    a = _expand(alpha_bar, x_t)
    signal, noise = a.sqrt(), (1 - a).sqrt()
    match prediction:
        case Prediction.NOISE:
            return (x_t - noise * output) / signal
        case Prediction.VELOCITY:
            return signal * x_t - noise * output
        case Prediction.SAMPLE:
            return output
        case Prediction.FLOW:
            return (x_t - noise * output) / (signal + noise)


def target(z: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """The training target of diffusion pre-training."""
    a = _expand(alpha_bar, z)
    match prediction:
        case Prediction.NOISE:
            return noise
        case Prediction.VELOCITY:
            return a.sqrt() * noise - (1 - a).sqrt() * z
        case Prediction.SAMPLE:
            return z
        case Prediction.FLOW:
            return noise - z


def _expand(alpha_bar: Tensor, like: Tensor) -> Tensor:
    return alpha_bar.to(torch.float32).view(-1, *[1] * (like.ndim - 1))


_GOLDEN = 0x9E3779B1  # torch's CPU generator keeps 32 bits of a seed: an odd factor keeps the steps of one file apart


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    alpha_bar: Callable[[Tensor], Tensor],
    prediction: Prediction,
    z_hat: Tensor,
    t: Tensor,
    *,
    steps: int = 1,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Call the denoiser at t, t (1 - 1/steps), ..., t / steps.

    Args:
        predict: x_t, t -> output of the denoiser.
        alpha_bar: t (b,) -> cumulative signal fraction (b,).
        prediction: Meaning of the output.
        z_hat: The bridge's latent (b, c, h, w).
        t: Start time (b,), 0 to 999.
        steps: 1 to `MAX_STEPS`.
        noise: Step i (from 1) -> standard normal (b, c, h, w); needed for more than one step.

    Returns:
        The clean latent (b, c, h, w).

    Raises:
        ConfigError: Steps out of range, or several without noise.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ConfigError(f"steps is {steps}, wanted 1 to {MAX_STEPS}")
    if steps > 1 and noise is None:
        raise ConfigError(f"{steps} steps want noise, got none: give the seed of each file")

    def call(x_t: Tensor, a: Tensor, t: Tensor) -> Tensor:
        return to_sample(predict(to_input(x_t, a, prediction), t), x_t, a, prediction)

    a = alpha_bar(t).to(z_hat.dtype)
    z = call(a.sqrt().view(-1, 1, 1, 1) * z_hat, a, t)
    for i in range(1, steps):
        assert noise is not None  # for the type checker: refused above
        later = t * (1 - i / steps)
        a = alpha_bar(later).to(z_hat.dtype)
        z = call(add_noise(z, noise(i), a).to(z_hat.dtype), a, later)
    return z


def seeded_noise(
    seeds: Sequence[int], shape: Sequence[int], device: torch.device | str, dtype: torch.dtype
) -> Callable[[int], Tensor]:
    """Noise for `sample` that depends on the file alone: not on its batch, the device, the dtype or earlier steps.

    Args:
        seeds: Of each image, 0 to 2**32 - 1.
        shape: (b, c, h, w) of the latents.
        device: Where the noise is needed; it is drawn on the CPU in float32.
        dtype: Of the noise.

    Returns:
        A function of the step i: standard normal (b, c, h, w).

    Raises:
        ConfigError: Not one seed for each image.
    """
    if len(seeds) != shape[0]:
        raise ConfigError(f"got {len(seeds)} seeds for {shape[0]} images, wanted one for each")

    def noise(i: int) -> Tensor:
        def one(seed: int) -> Tensor:
            generator = torch.Generator("cpu").manual_seed((seed + i * _GOLDEN) % 2**32)
            return torch.randn(tuple(shape[1:]), dtype=torch.float32, generator=generator, device="cpu")

        return torch.stack([one(seed) for seed in seeds]).to(device, dtype)

    return noise
