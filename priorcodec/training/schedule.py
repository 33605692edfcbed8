"""Length of a training run, its learning-rate schedule, and weight averaging."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop, and the learning rate on the way: linear warm-up, then a cosine that falls to `final` times `lr`.

    Progress is the larger of steps done / `steps` and minutes spent / `max_minutes`, those of earlier runs of a resumed training
    included, so the schedule always reaches its end.

    Attributes:
        lr: peak learning rate.
        steps: number of optimizer steps.
        max_minutes: time limit.
        warmup: steps until the peak.
        final: share of the peak that is left at the end.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights.
        save_minutes: minutes between checkpoints.
        log_every: steps between rows of the log.
    """

    lr: float
    steps: int
    max_minutes: float = math.inf
    warmup: int = 200
    final: float = 0.02
    clip: float = 1.0
    ema: float = 0.998
    save_minutes: float = 4.0
    log_every: int = 50

    def learning_rate(self, step: int, progress: float) -> float:
        """step: counts from 0; progress: in [0, 1]."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (self.final + (1 - self.final) * cosine)


def averaged(parameters: nn.ParameterList, decay: float) -> AveragedModel:
    """Exponential moving average of `parameters` (not of a whole model, which may hold a frozen backbone).

    Its memory is short at first and grows to `decay`.
    """

    def update(average: Any, current: Any, count: Any) -> None:
        step = int(count) + 1
        get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))(average, current, count)

    return AveragedModel(parameters, multi_avg_fn=update)
