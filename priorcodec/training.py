"""One training loop for everything that ships: budget in steps or minutes, EMA, atomic resumable checkpoints, a JSON log."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from priorcodec.core.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop and how the learning rate falls on the way (linear warm-up, then cosine to `final` times `lr`).

    Progress is the larger of steps done / `steps` and minutes spent / `max_minutes` (earlier runs of a resumed training
    counted), so the schedule always comes to its end.
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


class Loop:
    """Runs `loss(step) -> (scalar, scalars to log)` until the budget is spent.

    Args:
        model: what is trained and averaged; parameters: the ones to optimise (default: all that need a gradient);
        folder: `checkpoint.pt` (own format, for resuming only) and `log.jsonl` go there; state: further objects with
        state_dict/load_state_dict to resume (data order, discriminators).
    Raises:
        TrainingError: the loss is not finite.
    """

    def __init__(self, model: nn.Module, folder: Path, budget: Budget, *, parameters: Iterable[Tensor] | None = None):
        self.model, self.folder, self.budget = model, folder, budget
        self.parameters = [p for p in (parameters or model.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=budget.lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.minutes = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            self._resume()

    @property
    def progress(self) -> float:
        """In [0, 1]."""
        return min(1.0, max(self.step / self.budget.steps, self.minutes / self.budget.max_minutes))

    def run(self, loss: Callable[[int], tuple[Tensor, dict[str, float]]]) -> None:
        started = saved = time.monotonic()
        spent = self.minutes
        sums: dict[str, float] = {}
        with (self.folder / "log.jsonl").open("a") as log:
            while self.progress < 1:
                value, scalars = loss(self.step)
                if not torch.isfinite(value):
                    raise TrainingError(
                        f"loss is {value.item()} at step {self.step}; the last good state is in {self.folder}: "
                        "lower the learning rate and resume"
                    )
                self._update(value)
                self.minutes = spent + (time.monotonic() - started) / 60
                for key, x in scalars.items():
                    sums[key] = sums.get(key, 0.0) + x / self.budget.log_every
                if self.step % self.budget.log_every == 0:
                    row = {"step": self.step, "minutes": round(self.minutes, 2)}
                    row |= {key: round(x, 5) for key, x in sums.items()}
                    print(json.dumps(row), file=log, flush=True)
                    sums = {}
                if time.monotonic() - saved > 60 * self.budget.save_minutes:
                    saved = time.monotonic()
                    self.save()
        self.save()

    def _update(self, value: Tensor) -> None:
        budget = self.budget
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        lr = budget.lr * min(1.0, (self.step + 1) / budget.warmup) * (budget.final + (1 - budget.final) * cosine)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, budget.clip)
        self.optimizer.step()
        self.step += 1
        decay = min(budget.ema, (1 + self.step) / (10 + self.step))
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.lerp_(parameter.detach(), 1 - decay)

    def swap_average(self) -> None:
        """Exchange trained and averaged weights in place; calling it twice restores the first state."""
        for p, a in zip(self.parameters, self.average, strict=True):
            kept = p.detach().clone()
            p.data.copy_(a)
            a.copy_(kept)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
            "rng": torch.get_rng_state(),
        }
        part = self.folder / "checkpoint.part"
        torch.save(state, part)
        os.replace(part, self.folder / "checkpoint.pt")

    def _resume(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for a, b in zip(self.average, state["average"], strict=True):
            a.copy_(b)
        self.step, self.minutes = state["step"], state["minutes"]
        torch.set_rng_state(state["rng"])
