"""From a bridged latent to a clean one with few calls of the denoiser."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from priorcodec.core.contract import Prediction
from priorcodec.core.prediction import to_input, to_sample


def one_step(
    predict: Callable[[Tensor, Tensor], Tensor],
    alpha_bar: Callable[[Tensor], Tensor],
    prediction: Prediction,
    z_hat: Tensor,
    t: Tensor,
) -> Tensor:
    """One call at time t (OSCAR, 2025: what quantisation took away stands for the noise, so none is added).

    z_hat (b, c, h, w): the bridge's latent; t (b,) -> clean latent (b, c, h, w).
    """
    a = alpha_bar(t).to(z_hat.dtype)
    x_t = a.sqrt().view(-1, 1, 1, 1) * z_hat
    output = predict(to_input(x_t, a, prediction), t)
    return to_sample(output, x_t, a, prediction)
