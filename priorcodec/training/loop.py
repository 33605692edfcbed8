"""One training loop for everything that ships: budget in steps or minutes, EMA, atomic resumable checkpoints, a JSON log.

With an `accelerate.Accelerator` the same loop runs in one process, in several, or on many machines.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from priorcodec.core.errors import TrainingError
from priorcodec.core.io import atomic

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"


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

    With gradient accumulation (the accelerator's) `loss` is called several times a step, `part` counts them.

    Args:
        model: what is trained and averaged; folder: `checkpoint.pt` (own format, for resuming only) and `log.jsonl` go there;
        parameters: the ones to optimize (default: all that need a gradient);
        accelerator: its device, precision, processes; `wrapped` is then the model to call in `loss`;
        identity: what the run must not be resumed without (hashes of frozen parts).
    Raises:
        TrainingError: the loss is not finite, or the checkpoint is of another run.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        budget: Budget,
        *,
        parameters: Iterable[Tensor] | None = None,
        accelerator: Accelerator | None = None,
        identity: Mapping[str, str] | None = None,
    ):
        self.model, self.folder, self.budget, self.accelerator = model, folder, budget, accelerator
        self.identity = dict(identity or {})
        self.parameters = [p for p in (parameters or model.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=budget.lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.minutes, self.part = 0, 0.0, 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()
        self.wrapped: Any = accelerator.prepare_model(model) if accelerator else model

    @property
    def progress(self) -> float:
        """In [0, 1]."""
        return min(1.0, max(self.step / self.budget.steps, self.minutes / self.budget.max_minutes))

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.accelerator is None or self.accelerator.is_main_process

    def run(
        self,
        loss: Callable[[int], tuple[Tensor, dict[str, float]]],
        *,
        after: Callable[[dict[str, float] | None], None] = lambda row: None,
    ) -> None:
        """after: called behind every step, with the logged row every `log_every` steps, else None."""
        started = saved = time.monotonic()
        spent = self.minutes
        sums: dict[str, float] = {}
        with self._log() as log:
            while self.progress < 1:
                value, scalars = self._backward(loss)
                minutes = spent + (time.monotonic() - started) / 60
                value, minutes = self._together([value, minutes])
                if not math.isfinite(value):
                    raise self._stop("loss", value)
                self._update()
                self.minutes = minutes
                for key, x in scalars.items():
                    sums[key] = sums.get(key, 0.0) + x
                sums["steps"] = sums.get("steps", 0) + 1
                row = None
                if self.step % self.budget.log_every == 0:
                    count = sums.pop("steps")
                    means = self._together([x / count for x in sums.values()])
                    row = {"step": self.step, "minutes": round(self.minutes, 2)}
                    row |= {key: round(x, 5) for key, x in zip(sums, means, strict=True)}
                    print(json.dumps(row), file=log, flush=True)
                    sums = {}
                after(row)
                if time.monotonic() - saved > 60 * self.budget.save_minutes:
                    saved = time.monotonic()
                    self.save()
        self.save()

    def _backward(self, loss: Callable[[int], tuple[Tensor, dict[str, float]]]) -> tuple[float, dict[str, float]]:
        """Gradients of one step, over all its parts; the mean loss and scalars of this process."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.accelerator is None:
            value, scalars = loss(self.step)
            value.backward()
            return value.item(), scalars
        parts = self.accelerator.gradient_accumulation_steps
        total, means = 0.0, dict[str, float]()
        for self.part in range(parts):
            last = self.part == parts - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                value, scalars = loss(self.step)
                self.accelerator.backward(value)  # divides by the number of parts
            total += value.item() / parts
            means = {key: means.get(key, 0.0) + x / parts for key, x in scalars.items()}
        return total, means

    def _update(self) -> None:
        budget = self.budget
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        lr = budget.lr * min(1.0, (self.step + 1) / budget.warmup) * (budget.final + (1 - budget.final) * cosine)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, budget.clip)
        if not torch.isfinite(norm):
            raise self._stop("gradient", norm.item())
        self.optimizer.step()
        self.step += 1
        decay = min(budget.ema, (1 + self.step) / (10 + self.step))
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.lerp_(parameter.detach(), 1 - decay)

    def _together(self, values: list[float]) -> list[float]:
        """Means over all processes, the same numbers in each: so all of them stop at the same step."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return values
        mine = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        return self.accelerator.reduce(mine, "mean").tolist()  # pyright: ignore[reportAttributeAccessIssue]

    def _stop(self, what: str, value: float) -> TrainingError:
        return TrainingError(
            f"{what} is {value} at step {self.step}; the last good state is in {self.folder}: "
            "lower the learning rate and resume"
        )

    def swap_average(self) -> None:
        """Exchange trained and averaged weights in place; calling it twice restores the first state."""
        for p, a in zip(self.parameters, self.average, strict=True):
            kept = p.detach().clone()
            p.data.copy_(a)
            a.copy_(kept)

    def save(self) -> None:
        """Written beside and renamed: whenever the process dies, a whole checkpoint is there."""
        if self.main:
            state = {
                "model": self.model.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "minutes": self.minutes,
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "identity": self.identity,
            }
            part = self.folder / "checkpoint.part"
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.folder / CHECKPOINT)
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, map_location="cpu", weights_only=True)
        old = state.get("identity", {})
        for key in sorted(old.keys() & self.identity.keys()):
            if old[key] != self.identity[key]:
                raise TrainingError(
                    f"{self.folder} was trained with {key} {old[key]}, this is {self.identity[key]}: use another run folder"
                )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for a, b in zip(self.average, state["average"], strict=True):
                a.copy_(b)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise TrainingError(
                f"{self.folder} holds another model's run ({reason}): use another run folder"
            ) from error
        self.step, self.minutes = state["step"], state["minutes"]
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and len(state.get("cuda_rng", [])) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _log(self) -> contextlib.AbstractContextManager[Any]:
        """The open log, without rows that a killed run wrote after its last checkpoint."""
        if not self.main:
            return open(os.devnull, "w")
        path = self.folder / LOG
        if path.exists():
            kept = []
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    kept += [line] if json.loads(line)["step"] <= self.step else []
            atomic.write(path, "".join(f"{line}\n" for line in kept).encode())
        return path.open("a")
