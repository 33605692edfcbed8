"""Online latent optimization: y and the hyper-latent of one image moved so that its file costs less R + lambda D.

Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression" (NeurIPS 2020): Adam on the values before rounding,
rounding replaced by a random choice between both neighbors whose temperature falls (stochastic Gumbel annealing). The
probabilities are those of SGA+ (Perugachi-Diaz et al. 2024, the scaled sigmoid logit), better here in few steps.
    y_q, z --soften(temperature)--> entropy model --> bits ----------------------+--> R + lambda D --> Adam --> y_q, z
                             |-> y_hat --g_s--> preview --squared error (, ...)--+
    every few steps: y_q, z --Codec's own writer--> file, exact y_hat --g_s--> true R + lambda D; the best is kept
Nothing of it is seen by a decoder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from priorcodec.core.entropy.entropy_model import EntropyModel, gaussian_bits
from priorcodec.core.entropy.integer import clamp_ste
from priorcodec.core.errors import ConfigError
from priorcodec.core.gradient_similarity import gradient_magnitude, similarity
from priorcodec.core.image import io as image_io
from priorcodec.core.precision import autocast
from priorcodec.core.transforms import Transforms
from priorcodec.core.types import Cost, Refinement

if TYPE_CHECKING:
    from priorcodec.core.types import Encoded

MAX_STEPS = 10_000
CHECKS = 10  # hard-rounded candidates over a run
PATIENCE = 5  # of them without a better one end it
RATE = 0.01  # Adam's, in quantization steps; falls along half a cosine
T_START, T_END = 0.7, 0.15  # temperature of the first and of the last step
SEED = 0  # of the random choices
SHARPNESS = 1.8  # of the probabilities; SGA+ in this form has 1.15
METRIC_WEIGHT = 0.9  # of the distortion that a metric besides squared error makes up

Metric = Literal["psnr", "gmsd"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Number = TypeVar("Number", float, Tensor)
Write = Callable[[Tensor, Tensor], "tuple[Encoded, Tensor]"]
"""y_q (1, m, h, w), z (1, m_h, h/4, w/4) -> the file and the values its decoder reads, (m, h, w), in quantization steps."""


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Settings of latent refinement.

    Attributes:
        steps: 1 to 10,000.
        metric: distortion: "psnr" for squared error, "gmsd" for mostly the gradient magnitude lost at edges.
        progress: called with the number of steps done after each.

    Raises:
        ConfigError: an impossible number of steps, or another metric.
    """

    steps: int
    metric: Metric = "psnr"
    progress: Callable[[int], None] | None = None

    def __post_init__(self):
        if not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"refine is {self.steps} steps, wanted 1 to {MAX_STEPS}, or 0 for none")
        if self.metric not in METRICS:
            raise ConfigError(f"cannot refine for {self.metric!r}, wanted {' or '.join(METRICS)}")


class Objective:
    """R + lambda D of one image at one quality.

    D is the squared error of the preview in 8-bit values, over the true size. With gmsd it is (1 - METRIC_WEIGHT) of it and
    METRIC_WEIGHT of 1 - mean gradient magnitude similarity, scaled (unless `scale` is given) to be as large as the squared error
    of the plain file, so that lambda still fits.
    """

    def __init__(self, pixels: np.ndarray, x: Tensor, lam: float, metric: Metric = "psnr", scale: float = 0.0):
        self.pixels, self.x, self.lam, self.scale = pixels, x, lam, scale
        self.magnitude = gradient_magnitude(x) if metric == "gmsd" else None
        self.size: tuple[int, int] = pixels.shape[:2]  # pyright: ignore[reportAttributeAccessIssue]

    def bpp(self, bits: Tensor) -> Tensor:
        return bits / (self.size[0] * self.size[1])

    def distortion(self, preview: Tensor) -> Tensor:
        """Differentiable, of softened values."""
        preview = clamp_ste(preview, -1, 1)
        error = image_io.crop(preview - self.x, *self.size).square().mean() * 127.5**2
        return error if self.magnitude is None else self._mixed(error, self._edges_lost(preview, self.magnitude))

    @staticmethod
    def _edges_lost(preview: Tensor, magnitude: Tensor) -> Tensor:
        return 1 - similarity(gradient_magnitude(preview), magnitude).mean()

    def _mixed(self, error: Number, other: Number) -> Number:
        return (1 - METRIC_WEIGHT) * error + METRIC_WEIGHT * self.scale * other

    def cost(self, encoded: Encoded, preview: Tensor) -> Cost:
        """True cost of a file, of which the preview was decoded. The first one asked about sets the scale."""
        shown = image_io.to_pixels(image_io.crop(preview, *self.size))
        distortion = float(np.square(shown.astype(np.float64) - self.pixels).mean())
        if self.magnitude is not None:
            other = float(self._edges_lost(preview.clamp(-1, 1), self.magnitude))
            self.scale = self.scale or distortion / max(other, 1e-9)
            distortion = self._mixed(distortion, other)
        bpp = 8 * len(encoded.data) / (self.size[0] * self.size[1])
        return Cost(bytes=len(encoded.data), bpp=bpp, distortion=distortion, total=bpp + self.lam * distortion)


def soften(value: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    """Values between their two neighboring integers, nearly one of them when cold; random: of the logistic noise."""
    lower = value.detach().floor()
    noise = torch.rand(value.shape, dtype=value.dtype, generator=random, device=value.device).logit(1e-6)
    odds = SHARPNESS * torch.logit((value - lower).clamp(1e-4, 1 - 1e-4))
    return lower + torch.sigmoid((odds / temperature + noise) / temperature)


def refine(
    request: RefineConfig,
    objective: Objective,
    transforms: Transforms,
    entropy_model: EntropyModel,
    quality: Tensor,
    y: Tensor,
    write: Write,
    *,
    max_bytes: int | None = None,
) -> tuple[Encoded, Refinement]:
    """Features y (1, m, h, w) as the encoder made them, quality (1,) -> the best file found, which may be the plain one.

    max_bytes: size limit in bytes; the unrefined file is exempt.
    """
    started = time.perf_counter()

    def true_cost(y_q: Tensor, z: Tensor) -> tuple[Encoded, Cost]:
        with torch.no_grad():
            encoded, values = write(y_q, z)
            y_hat = transforms.dequantize(values[None], quality)
            return encoded, objective.cost(encoded, transforms.g_s(y_hat, quality))

    with torch.inference_mode(False), torch.enable_grad():
        y_q, z = (part.detach().clone() for part in transforms.scaled(y.clone(), quality))
        best, before = true_cost(y_q, z)
        after, since, done = before, 0, 0
        optimizer = torch.optim.Adam([y_q.requires_grad_(), z.requires_grad_()], lr=RATE)
        random = torch.Generator(y.device).manual_seed(SEED)
        for done in range(1, request.steps + 1):
            share = (done - 1) / request.steps
            optimizer.param_groups[0]["lr"] = RATE * (0.525 + 0.475 * math.cos(math.pi * share))
            soft = partial(soften, temperature=T_START * (T_END / T_START) ** share, random=random)
            optimizer.zero_grad()
            _loss(objective, transforms, entropy_model, quality, y_q, z, soft).backward()
            optimizer.step()
            if request.progress:
                request.progress(done)
            if done % -(-request.steps // CHECKS) and done < request.steps:
                continue
            if not bool(y_q.isfinite().all() and z.isfinite().all()):  # the coder takes numbers only
                break
            candidate, cost = true_cost(y_q, z)
            since += 1
            if cost.total < after.total and (max_bytes is None or cost.bytes <= max_bytes):
                best, after, since = candidate, cost, 0
            if since == PATIENCE:
                break
    seconds = time.perf_counter() - started
    return best, Refinement(steps=done, seconds=seconds, before=before, after=after, scale=objective.scale)


def _loss(
    objective: Objective,
    transforms: Transforms,
    entropy_model: EntropyModel,
    quality: Tensor,
    y_q: Tensor,
    z: Tensor,
    soft: Callable[[Tensor], Tensor],
) -> Tensor:
    """R + lambda D of values softened by `soft`. Only the convolutions on pixels may run in bfloat16."""
    z_mean, z_index = entropy_model.hyper_parameters(quality)
    z_symbols = soft(z - z_mean)
    phi = entropy_model.features(z_symbols + z_mean, quality)
    symbols, mean, index = entropy_model(y_q, phi, soft)
    bits = gaussian_bits(symbols, index).sum() + gaussian_bits(z_symbols, z_index.expand_as(z)).sum()
    y_hat = transforms.dequantize(symbols + mean, quality)
    with autocast(y_q.device):
        preview = transforms.g_s(y_hat, quality).float()
        return objective.bpp(bits) + objective.lam * objective.distortion(preview)
