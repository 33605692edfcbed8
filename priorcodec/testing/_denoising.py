"""Tier 2: the denoiser removes the noise that `alpha_bar` and the stated prediction say is there; where not, a search says why.

z = to_latents(image) --add_noise(a(t))--> x_t --predict(t), read as stated--> z_0          error against doing nothing
the search: another prediction type, sign, unit of time, scale of x_t, or reading of alpha_bar under which it denoises
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from priorcodec.backbones.conditions import make_condition
from priorcodec.backbones.diffusion import add_noise, target, to_input, to_sample
from priorcodec.backbones.spec import Prediction
from priorcodec.testing._full import image
from priorcodec.testing._run import CheckError, Subject

TIMES = (140.0, 310.0, 620.0)  # none of them is, within a factor of two, another one reversed
MOST = 0.75  # of the error of doing nothing, at every time
BETTER = 0.6  # another reading must leave less than this share of the stated one's error, at one time at least, to be the cause
LATE = (500.0, 650.0, 800.0)  # times at which a wrong schedule shows most
CALIBRATED, WRONG = 0.45, 1.6  # below the first right for sure, above the second wrong for sure


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How the denoiser is called and its answer read; the stated way is the first of every list."""

    kind: Prediction
    sign: int = 1
    time: str = ""
    scale: str = ""


CLOCKS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda t: t,
    "time is reversed before it reaches the denoiser: pass t, not 999 - t": lambda t: 999 - t,
    "time reaches the denoiser in thousandths: pass t, not t / 1000": lambda t: 1000 * t,
    "time reaches the denoiser multiplied by 1000: pass t as the denoiser was trained on it, t / 1000 or t": lambda t: (
        t / 1000
    ),
    "time reaches the denoiser at half its value": lambda t: 2 * t,
    "time reaches the denoiser at twice its value": lambda t: t / 2,
}
SCALES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of (x_t, alpha_bar)
    "": lambda x, a: x,
    "x_t is rescaled before it reaches the denoiser: it comes as the denoiser wants it": lambda x, a: (
        x * (a.sqrt() + (1 - a).sqrt()).view(-1, 1, 1, 1)
    ),
    "x_t is divided by sqrt(alpha_bar) before it reaches the denoiser: pass it as it comes": lambda x, a: (
        x * a.sqrt().view(-1, 1, 1, 1)
    ),
    "the denoiser wants x_t on another scale, z + sigma * noise: divide by sqrt(alpha_bar)": lambda x, a: (
        x / a.sqrt().view(-1, 1, 1, 1)
    ),
    "x_t is doubled before it reaches the denoiser: pass it as it comes": lambda x, a: x / 2,
    "x_t is halved before it reaches the denoiser: pass it as it comes": lambda x, a: x * 2,
    "x_t is negated before it reaches the denoiser: pass it as it comes": lambda x, a: -x,
}
SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {  # other schedules -> what alpha_bar() gives in place of them
    "it gives the square root: square it": lambda a: a**2,
    "it gives the square: take the root": lambda a: a.sqrt(),
    "it gives the noise's share: return 1 - it": lambda a: 1 - a,
    "it is (1 - s)^2 of a flow: divide by (1 - s)^2 + s^2": lambda a: a / (a + (1 - a.sqrt()) ** 2),
    "it is 1 - s of a flow: return (1 - s)^2 / ((1 - s)^2 + s^2)": lambda a: a**2 / (a**2 + (1 - a) ** 2),
}


@torch.no_grad()
def check_prediction_type(subject: Subject) -> str:
    """Read as the stated prediction, the answer removes noise at every time, and no other type, sign or clock does better."""
    bench = _Bench(subject)
    stated = _Reading(kind=subject.spec.prediction)
    errors = bench.errors(stated)
    text = ", ".join(f"{error:.3g} at t={time:g}" for time, error in zip(TIMES, errors, strict=True))
    bad = max(errors) > MOST
    candidates = [_Reading(kind=kind, sign=sign) for kind in Prediction for sign in (1, -1)]
    best = min(candidates, key=lambda reading: sum(bench.errors(reading)))
    known = max(bench.errors(best)) < MOST and (best.kind, best.sign) != (stated.kind, 1)
    if known and _better(bench.errors(best), errors):
        raise CheckError(
            f"predict() {_misread(stated, best)} (error left: {text}; {sum(bench.errors(best)):.3g} so in all)"
        )
    if not bad:
        best = min(
            (_Reading(kind=stated.kind, time=clock) for clock in CLOCKS), key=lambda r: math.prod(bench.errors(r))
        )
        if not best.time or not _better(bench.errors(best), errors):
            return f"error left: {text} of doing nothing's"
        raise CheckError(f"predict() removes too little noise (error left: {text}): {best.time}")
    found = [
        _Reading(kind=c.kind, sign=c.sign, time=clock, scale=scale)
        for c, clock, scale in itertools.product(candidates, CLOCKS, SCALES)
        if (not clock or not scale) and (c == stated or (not clock and not scale) or (c.sign == 1 and not scale))
    ]
    best = min(found, key=lambda reading: sum(bench.errors(reading)))
    if sum(bench.errors(best)) < BETTER * sum(errors) and max(bench.errors(best)) < MOST:
        causes = [best.time, best.scale]
        if (best.kind, best.sign) != (stated.kind, 1):
            causes.append(_misread(stated, best))
        raise CheckError(f"predict() removes too little noise (error left: {text}): {'; '.join(filter(None, causes))}")
    raise CheckError(
        f"predict() does not denoise (error left: {text} of doing nothing's, wanted below {MOST} everywhere), whatever "
        "prediction, sign or clock: are the weights loaded, are z and x_t on the scale of its training, is the condition passed?"
    )


def _better(errors: list[float], stated: list[float]) -> bool:
    """Whether errors are far lower than the stated reading's at one time, and higher at none."""
    ratios = [error / max(other, 1e-9) for error, other in zip(errors, stated, strict=True)]
    return min(ratios) < BETTER and max(ratios) < 1.1


def _misread(stated: _Reading, best: _Reading) -> str:
    if best.kind is stated.kind:
        return f"answers with the wrong sign: {stated.kind} is {FORMULAS[stated.kind]}, return its negative"
    sign = "" if best.sign == 1 else "the negative of "
    return (
        f"answers with {sign}{best.kind} ({FORMULAS[best.kind]}), the spec says {stated.kind} ({FORMULAS[stated.kind]}): "
        "correct spec.prediction"
    )


FORMULAS = {
    Prediction.NOISE: "the noise n",
    Prediction.VELOCITY: "sqrt(a) n - sqrt(1 - a) z",
    Prediction.SAMPLE: "the clean z",
    Prediction.FLOW: "n - z",
}


@torch.no_grad()
def check_noise_level(subject: Subject) -> str:
    """Signal and noise in the answer are as strong as the best estimate's: alpha_bar is the schedule of the training."""
    bench = _Bench(subject)
    stated = bench.miscalibration()
    text = f"miscalibration {stated:.2f}, 0 at best"
    if stated < CALIBRATED:
        return text
    others = {f"alpha_bar(): {text}": bench.miscalibration(schedule) for text, schedule in SCHEDULES.items()}
    others |= {f"predict(): {text}": bench.miscalibration(scale=text) for text in SCALES if text}
    gain = bench.strength()
    weak = f"predict() answers at {1 / gain:.2f} of its strength: is its answer scaled?"
    others[weak] = 1.7 * bench.miscalibration(gain=gain)  # a gain fits a little of everything: the others go first
    best = min(others, key=others.__getitem__)
    if stated < WRONG and others[best] > 0.6 * stated:
        return text
    cause = (
        best
        if others[best] < 0.7 * stated
        else "is alpha_bar() the cumulative product of the schedule of its training?"
    )
    raise CheckError(f"the denoiser takes x_t for noisier or cleaner than alpha_bar states it ({text}); {cause}")


class _Bench:
    """A denoiser with its autoencoder's latent of an image, and noise; what was computed is kept."""

    def __init__(self, subject: Subject):
        self.spec, self.backbone = subject.spec, subject.real()
        self.z: Tensor = subject.once("to_latents() of an image", lambda: self.backbone.to_latents(image()))
        self.noise = torch.randn(self.z.shape, generator=torch.Generator().manual_seed(0))
        x = image()
        inputs: dict[str, Any] = {"preview": x, "latent": self.z}
        inputs["thumbnail"] = torch.nn.functional.avg_pool2d(x, self.spec.latent.stride)
        blank = make_condition(self.spec, self.z, tokens=8)
        given = {name: value for name, value in inputs.items() if getattr(blank, name) is not None}
        self.condition = type(blank)(**{**vars(blank), **given})
        self._answers: dict[Any, Tensor] = {}

    def errors(self, reading: _Reading) -> list[float]:
        """Squared error of z at each time, relative to x_t / sqrt(a), which is what doing nothing gives."""
        found = []
        for time in TIMES:
            t = torch.full((1,), time)
            a = self.backbone.alpha_bar(t).float()
            x_t = add_noise(self.z, self.noise, a)
            key = (time, reading.time, reading.scale, reading.kind is Prediction.FLOW)
            if key not in self._answers:
                scaled = SCALES[reading.scale](to_input(x_t, a, reading.kind), a)
                self._answers[key] = self.backbone.predict(scaled, CLOCKS[reading.time](t), self.condition).float()
            out = to_sample(reading.sign * self._answers[key], x_t, a, reading.kind)
            error = (out - self.z).square().mean() / ((1 - a) / a).clamp_min(1e-6)
            found.append(error.item() if bool(error.isfinite()) else float("inf"))
        return found

    def miscalibration(
        self, schedule: Callable[[Tensor], Tensor] = lambda a: a, *, scale: str = "", gain: float = 1.0
    ) -> float:
        """How far the answers are from best estimates when x_t is made by `schedule` of alpha_bar, summed over `LATE`.

        The error of a best estimate is uncorrelated with the estimate, for the signal as for the noise; a denoiser that takes
        x_t for noisier or cleaner than it is keeps too little or too much of it.
        """
        total = 0.0
        for x_t, a, output in self._late(schedule, scale):
            out = to_sample(gain * output, x_t, a, self.spec.prediction)
            wide = a.view(-1, 1, 1, 1)
            noise = (x_t - wide.sqrt() * out) / (1 - wide).sqrt()
            for estimate, truth in ((_centered(out), _centered(self.z)), (noise, self.noise)):
                total += abs(math.log(_slope(estimate, truth)))
        return total

    def strength(self) -> float:
        """The factor that makes the answers best estimates of the stated prediction."""
        slopes = [
            _slope(output, target(self.z, self.noise, a, self.spec.prediction))
            for _, a, output in self._late(lambda a: a, "")
        ]
        return math.prod(slopes) ** (1 / len(slopes))

    def _late(self, schedule: Callable[[Tensor], Tensor], scale: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """x_t, alpha_bar and the answer at each of `LATE`."""
        for time in LATE:
            t = torch.full((1,), time)
            a = schedule(self.backbone.alpha_bar(t).float()).clamp(1e-4, 1 - 1e-4)
            x_t = add_noise(self.z, self.noise, a)
            seen = SCALES[scale](to_input(x_t, a, self.spec.prediction), a)
            yield x_t, a, self.backbone.predict(seen, t, self.condition).float()


def _slope(estimate: Tensor, truth: Tensor) -> float:
    slope = (estimate * truth).sum() / estimate.square().sum().clamp_min(1e-12)
    return min(max(slope.item(), 1e-2), 1e2)


def _centered(z: Tensor) -> Tensor:
    return z - z.mean((2, 3), keepdim=True)
