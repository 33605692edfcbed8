"""From a bridged latent to a clean one with few calls of the denoiser.

z_hat --sqrt(a)--> x_t --predict--> z --add_noise at a smaller t--> x_t --predict--> z ...   (steps calls in all)

One call: OSCAR (2025), what quantisation took away stands for the noise, so none is added. More: the clean estimate is noised
again on a falling time grid, as consistency models are sampled (Song et al. 2023, algorithm 1); the noise comes from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from priorcodec.core.contract import MAX_STEPS, Prediction
from priorcodec.core.errors import ConfigError
from priorcodec.core.prediction import add_noise, to_input, to_sample

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

    z_hat (b, c, h, w): the bridge's latent; t (b,): start time, 0 to 999; steps: 1 to MAX_STEPS; noise: step i (from 1) ->
    standard normal (b, c, h, w), wanted for more than one step -> clean latent (b, c, h, w).

    Raises:
        ConfigError: steps out of range, or several without noise.
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

    seeds: of each picture, 0 to 2**32 - 1 (`bitstream.seed`); shape: (b, c, h, w) of the latents -> function of the step i:
    standard normal (b, c, h, w), drawn on the CPU in float32.

    Raises:
        ConfigError: not one seed for each picture.
    """
    if len(seeds) != shape[0]:
        raise ConfigError(f"got {len(seeds)} seeds for {shape[0]} pictures, wanted one for each")

    def noise(i: int) -> Tensor:
        def one(seed: int) -> Tensor:
            generator = torch.Generator().manual_seed((seed + i * _GOLDEN) % 2**32)
            return torch.randn(tuple(shape[1:]), generator=generator)

        return torch.stack([one(seed) for seed in seeds]).to(device, dtype)

    return noise
