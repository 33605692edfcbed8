"""Every kind of denoiser output becomes the clean latent here, before anybody else sees it (after k-diffusion external.py).

Variance preserving throughout: x_t = sqrt(a) z + sqrt(1 - a) n with a = alpha_bar(t). A flow model sees the same point
rescaled to its own straight path, x = (1 - s) z + s n.
    noise    n                                z = (x_t - sqrt(1-a) n) / sqrt(a)            Ho et al. 2020, eq. 9
    velocity sqrt(a) n - sqrt(1-a) z          z = sqrt(a) x_t - sqrt(1-a) v                Salimans & Ho 2022, app. D
    sample   z                                z
    flow     n - z                            z = x - s v                                  Lipman et al. 2023
"""

from __future__ import annotations

import torch
from torch import Tensor

from priorcodec.core.contract import Prediction


def add_noise(z: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """z, noise (b, c, h, w), alpha_bar (b,) -> x_t."""
    a = _expand(alpha_bar, z)
    return a.sqrt() * z + (1 - a).sqrt() * noise


def to_input(x_t: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """x_t as this kind of denoiser wants to see it."""
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
    """What the denoiser should have answered: the training target of diffusion pre-training."""
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
