"""Online latent optimization: y and the hyper-latent of one image moved so that its file costs less R + lambda D.

Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression" (NeurIPS 2020): Adam on the values before rounding,
rounding replaced by a random choice between both neighbors whose temperature falls (stochastic Gumbel annealing). The
probabilities are those of SGA+ (Perugachi-Diaz et al. 2024, the scaled sigmoid logit), better here in few steps.
    y_q, z --soften(temperature)--> prior --> bits ------------------------------+--> R + lambda D --> Adam --> y_q, z
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
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from priorcodec.core.entropy.entropy_model import Prior, gaussian_bits
from priorcodec.core.entropy.integer import clamp_ste
from priorcodec.core.errors import ConfigError
from priorcodec.core.gradient_similarity import gradient_magnitude, similarity
from priorcodec.core.image import io as image_io
from priorcodec.core.transforms import Transforms

if TYPE_CHECKING:
    from priorcodec.core.codec import Encoded

MOST_STEPS = 10_000
CHECKS = 10  # hard-rounded candidates over a run
PATIENCE = 5  # of them without a better one end it
RATE = 0.01  # Adam's, in quantization steps; falls along half a cosine
HOT, COLD = 0.7, 0.15  # temperature of the first and of the last step
SHARPNESS = 1.8  # of the probabilities; SGA+ in this form has 1.15
SHARE = 0.9  # of the distortion that a measure makes up, where there is one

Number = TypeVar("Number", float, Tensor)
Measure = Callable[[Tensor, Tensor], Tensor]
"""y_hat (1, m, h, w), preview (1, 3, 16h, 16w) -> how far they are from the image, a positive scalar of any unit."""
Towards = Callable[[Tensor, float], Measure]
"""Padded image (1, 3, H, W) in [-1, 1], quality in levels -> the measure."""
Write = Callable[[Tensor, Tensor], "tuple[Encoded, Tensor]"]
"""y_q (1, m, h, w), z (1, m_h, h/4, w/4) -> the file and the values its decoder reads, (m, h, w), in quantization steps."""


@dataclass(frozen=True, kw_only=True)
class Refine:
    """What to do. steps: 1 to 10000; towards: what counts besides the squared error, None for nothing; seed: of the random
    choices; progress: called with the number of steps done after each."""

    steps: int
    towards: Towards | None = None
    seed: int = 0
    progress: Callable[[int], None] | None = None

    def __post_init__(self):
        if not 1 <= self.steps <= MOST_STEPS:
            raise ConfigError(f"refine is {self.steps} steps, wanted 1 to {MOST_STEPS}")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a whole file. bpp: of the true size; distortion: in squared 8-bit values; total: bpp + lambda * distortion."""

    bytes: int
    bpp: float
    distortion: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """What it did. steps: made, fewer than wanted after an early stop; before: of the plain file; after: of the one written;
    scale: of the measure against the squared error, 0 without one."""

    steps: int
    seconds: float
    before: Cost
    after: Cost
    scale: float = 0.0


def structure(x: Tensor, quality: float) -> Measure:
    """The structure term: one less the mean gradient magnitude similarity of the image and its preview."""
    wanted = gradient_magnitude(x)
    return lambda y_hat, preview: 1 - similarity(gradient_magnitude(preview), wanted).mean()


class Objective:
    """R + lambda D of one image at one quality.

    D is the squared error of the preview in 8-bit values, over the true size; with a measure (1 - SHARE) of it and SHARE of
    that one, scaled (unless `scale` is given) to be as large as the squared error of the plain file, so that lambda still fits.
    """

    def __init__(self, pixels: np.ndarray, x: Tensor, lam: float, measure: Measure | None, scale: float = 0.0):
        self.pixels, self.x, self.lam, self.measure, self.scale = pixels, x, lam, measure, scale
        self.size: tuple[int, int] = pixels.shape[:2]  # pyright: ignore[reportAttributeAccessIssue]

    def bpp(self, bits: Tensor) -> Tensor:
        return bits / (self.size[0] * self.size[1])

    def distortion(self, y_hat: Tensor, preview: Tensor) -> Tensor:
        """Differentiable, of softened values."""
        preview = clamp_ste(preview, -1, 1)
        error = image_io.crop(preview - self.x, *self.size).square().mean() * 127.5**2
        return error if self.measure is None else self._mixed(error, self.measure(y_hat, preview))

    def _mixed(self, error: Number, other: Number) -> Number:
        return (1 - SHARE) * error + SHARE * self.scale * other

    def cost(self, encoded: Encoded, y_hat: Tensor, preview: Tensor) -> Cost:
        """True cost of a file, of which y_hat and the preview were decoded. The first one asked about sets the scale."""
        shown = image_io.to_pixels(image_io.crop(preview, *self.size))
        distortion = float(np.square(shown.astype(np.float64) - self.pixels).mean())
        if self.measure is not None:
            other = float(self.measure(y_hat, preview.clamp(-1, 1)))
            self.scale = self.scale or distortion / max(other, 1e-9)
            distortion = self._mixed(distortion, other)
        bpp = 8 * len(encoded.data) / (self.size[0] * self.size[1])
        return Cost(bytes=len(encoded.data), bpp=bpp, distortion=distortion, total=bpp + self.lam * distortion)


def soften(value: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """Values between their two neighboring integers, nearly one of them when cold; noise: logistic, the same shape."""
    lower = value.detach().floor()
    odds = SHARPNESS * torch.logit((value - lower).clamp(1e-4, 1 - 1e-4))
    return lower + torch.sigmoid((odds / temperature + noise) / temperature)


def refine(
    request: Refine,
    objective: Objective,
    transforms: Transforms,
    prior: Prior,
    quality: Tensor,
    y: Tensor,
    write: Write,
    *,
    most: int | None = None,
) -> tuple[Encoded, Refinement]:
    """Features y (1, m, h, w) as the encoder made them, quality (1,) -> the best file found, which may be the plain one.

    most: bytes that a file may have, unless it is the plain one.
    """
    started = time.perf_counter()

    def true_cost(y_q: Tensor, z: Tensor) -> tuple[Encoded, Cost]:
        with torch.no_grad():
            encoded, values = write(y_q, z)
            y_hat = transforms.dequantize(values[None], quality)
            return encoded, objective.cost(encoded, y_hat, transforms.g_s(y_hat))

    with torch.inference_mode(False), torch.enable_grad():
        y_q, z = (part.detach().clone() for part in transforms.scaled(y.clone(), quality))
        best, before = true_cost(y_q, z)
        after, since, done = before, 0, 0
        optimizer = torch.optim.Adam([y_q.requires_grad_(), z.requires_grad_()], lr=RATE)
        random = torch.Generator(y.device).manual_seed(request.seed)
        for done in range(1, request.steps + 1):
            share = (done - 1) / request.steps
            optimizer.param_groups[0]["lr"] = RATE * (0.525 + 0.475 * math.cos(math.pi * share))
            noise = [torch.rand(part.shape, generator=random, device=y.device) for part in (y_q, z)]
            temperature = HOT * (COLD / HOT) ** share
            soft = [partial(soften, temperature=temperature, noise=n.logit(1e-6)) for n in noise]
            optimizer.zero_grad()
            _loss(objective, transforms, prior, quality, y_q, z, soft).backward()
            optimizer.step()
            if request.progress:
                request.progress(done)
            if done % -(-request.steps // CHECKS) and done < request.steps:
                continue
            if not bool(y_q.isfinite().all() and z.isfinite().all()):  # the coder takes numbers only
                break
            candidate, cost = true_cost(y_q, z)
            since += 1
            if cost.total < after.total and (most is None or cost.bytes <= most):
                best, after, since = candidate, cost, 0
            if since == PATIENCE:
                break
    seconds = time.perf_counter() - started
    return best, Refinement(steps=done, seconds=seconds, before=before, after=after, scale=objective.scale)


def _loss(
    objective: Objective,
    transforms: Transforms,
    prior: Prior,
    quality: Tensor,
    y_q: Tensor,
    z: Tensor,
    soft: list[Callable[[Tensor], Tensor]],
) -> Tensor:
    """R + lambda D of softened values; soft: of y_q and of z. Only the convolutions on pixels run in bfloat16."""
    soft_y, soft_z = soft
    z_mean, z_index = prior.hyper_parameters(quality)
    z_symbols = soft_z(z - z_mean)
    phi = prior.features(z_symbols + z_mean, quality)
    mean, index = prior(y_q, phi, soft_y)
    symbols = soft_y(y_q - mean)
    bits = gaussian_bits(symbols, index).sum() + gaussian_bits(z_symbols, z_index.expand_as(z)).sum()
    y_hat = transforms.dequantize(symbols + mean, quality)
    with torch.autocast(y_q.device.type, dtype=torch.bfloat16):
        preview = transforms.g_s(y_hat).float()
        return objective.bpp(bits) + objective.lam * objective.distortion(y_hat, preview)
