"""One training loop for everything that ships: budget in steps or minutes, averaged weights, resumable checkpoints, a JSON log.

With an `accelerate.Accelerator` the same loop runs in one process, in several, or on many machines. Whatever depends on a clock
is decided by the first process and reduced with the loss, so that all processes take the same branch at the same step.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from priorcodec.core.errors import TrainingError
from priorcodec.core.io import atomic
from priorcodec.training import checkpoint
from priorcodec.training.schedule import Budget, averaged

if TYPE_CHECKING:
    from accelerate import Accelerator

    from priorcodec.training.critic import CriticTrainer

CHECKPOINT, LOG = checkpoint.NAME, "log.jsonl"


class Loop:
    """Runs `loss(step) -> (scalar, scalars to log)` until the budget is spent.

    With gradient accumulation (the accelerator's) `loss` is called several times a step.

    Args:
        model: what is trained and averaged.
        folder: for `checkpoint.pt` (own format, for resuming only) and `log.jsonl`.
        budget: see there.
        parameters: those to optimize; default: all that need a gradient.
        accelerator: its device, precision and processes; `wrapped` is then the model to call in `loss`.
        identity: hashes of frozen parts; a checkpoint made with others is refused.
        critic: trained beside the model, behind each step, by its own optimizer; `loss` calls its `backward`.

    Attributes:
        step: optimizer steps done, those of resumed runs included.
        minutes: time spent, likewise.
        wrapped: `model`, as the accelerator wraps it.

    Raises:
        TrainingError: there is nothing to train, the loss is not finite, or the checkpoint is damaged or of another run.
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
        critic: CriticTrainer | None = None,
    ):
        self.model, self.folder, self.budget, self.accelerator, self.critic = model, folder, budget, accelerator, critic
        self.identity = dict(identity or {})
        self.parameters = [p for p in (parameters or model.parameters()) if p.requires_grad]
        if not self.parameters:
            raise TrainingError("there is nothing to train: the part that train= names does not exist with these sizes")
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=budget.lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True
        )
        self.trained = nn.ParameterList(self.parameters)
        self.ema = averaged(self.trained, budget.ema)
        self.step, self.minutes = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()
        self.wrapped: Any = accelerator.prepare_model(model) if accelerator else model

    @property
    def average(self) -> list[Tensor]:
        """The averaged weights, in the order of `parameters`."""
        return [parameter.detach() for parameter in self.ema.module.parameters()]

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
        """Train to the end of the budget and write the last checkpoint.

        Args:
            loss: gradients of its first result are taken; the scalars are averaged over parts, steps and processes.
            after: called behind every step, with the logged row every `log_every` steps, else None.
        """
        started = saved = time.monotonic()
        spent = self.minutes
        sums: dict[str, float] = {}
        with self._open_log() as rows:
            while self.progress < 1:
                value, scalars = self._backward(loss)
                now = time.monotonic()
                due = self.main and now - saved > 60 * self.budget.save_minutes
                value, minutes, due = self._reduce([value, spent + (now - started) / 60, float(due)])
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
                    means = self._reduce([x / count for x in sums.values()])
                    row = {"step": self.step, "minutes": round(self.minutes, 2)}
                    row |= {key: round(x, 5) for key, x in zip(sums, means, strict=True)}
                    print(json.dumps(row), file=rows, flush=True)
                    sums = {}
                after(row)
                if due:
                    saved = time.monotonic()
                    self.save()
        self.save()

    def _backward(self, loss: Callable[[int], tuple[Tensor, dict[str, float]]]) -> tuple[float, dict[str, float]]:
        """Gradients of one step, over all its parts; the mean loss and scalars of this process."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.accelerator is None:
            value, scalars = loss(self.step)
            _check_trains(value)
            value.backward()
            return value.item(), scalars
        parts = self.accelerator.gradient_accumulation_steps
        total, means = 0.0, dict[str, float]()
        for part in range(parts):
            last = part == parts - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                value, scalars = loss(self.step)
                _check_trains(value)
                self.accelerator.backward(value)  # divides by the number of parts
            total += value.item() / parts
            means = {key: means.get(key, 0.0) + x / parts for key, x in scalars.items()}
        return total, means

    def _update(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.budget.learning_rate(self.step, self.progress)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.budget.clip)
        if not torch.isfinite(norm):
            raise self._stop("gradient", norm.item())
        self.optimizer.step()
        self.step += 1
        self.ema.update_parameters(self.trained)
        if self.critic is not None:
            self.critic.update()

    def _reduce(self, values: list[float]) -> list[float]:
        """Means over all processes, the same numbers in each: so all of them stop at the same step."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return values
        mine = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        return self.accelerator.reduce(mine, "mean").tolist()  # pyright: ignore[reportAttributeAccessIssue]

    def _stop(self, what: str, value: float) -> TrainingError:
        rates = "lr=" if self.critic is None else "lr= or critic.lr="
        state = "the last good state is there" if (self.folder / CHECKPOINT).exists() else "nothing was saved yet"
        return TrainingError(
            f"{what} is {value} at step {self.step}: lower the learning rate ({rates}) and resume {self.folder}, {state}"
        )

    def swap_average(self) -> None:
        """Exchange trained and averaged weights in place; calling it twice restores the first state."""
        for p, a in zip(self.parameters, self.average, strict=True):
            kept = p.detach().clone()
            p.data.copy_(a)
            a.copy_(kept)

    def save(self) -> None:
        """Write the checkpoint. Raises TrainingError, in every process: a weight is not finite, or it cannot be written."""
        problem = None
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(parameter.isfinite().all()):
                raise self._stop(f"a value of {name}", math.nan)
        if self.critic is not None and not all(bool(p.isfinite().all()) for p in self.critic.parameters):
            raise self._stop("a value of the critic", math.nan)
        if self.main:
            state = {
                "model": self.model.state_dict(),
                "average": self.average,
                "averaged": int(self.ema.n_averaged),
                "optimizer": self.optimizer.state_dict(),
                "critic": self.critic.state_dict() if self.critic else {},
                "step": self.step,
                "minutes": self.minutes,
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "identity": self.identity,
            }
            try:
                checkpoint.write(self.folder / CHECKPOINT, state)
            except TrainingError as error:
                problem = error
        if self._reduce([float(problem is not None)])[0]:
            raise problem or TrainingError("the first process cannot write the checkpoint")

    def _resume(self) -> None:
        state = checkpoint.read(self.folder / CHECKPOINT)
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
            self.ema.n_averaged.fill_(state.get("averaged", state["step"]))
            if self.critic is not None:
                self.critic.load_state_dict(state["critic"])
            torch.set_rng_state(state["rng"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise TrainingError(
                f"{self.folder} holds another model's run ({reason}): use another run folder"
            ) from error
        self.step, self.minutes = state["step"], state["minutes"]
        if torch.cuda.is_available() and len(state.get("cuda_rng", [])) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _open_log(self) -> contextlib.AbstractContextManager[Any]:
        """The open log, without rows that a killed run wrote after its last checkpoint."""
        if not self.main:
            return open(os.devnull, "w")
        path = self.folder / LOG
        if path.exists():
            kept = []
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    kept += [line] if json.loads(line)["step"] <= self.step else []
            atomic.write(path, "".join(f"{line}\n" for line in kept).encode())
        return path.open("a")


def _check_trains(loss: Tensor) -> None:
    """Raises TrainingError: the loss depends on nothing that is trained."""
    if not loss.requires_grad:
        raise TrainingError(
            "no term of the loss reaches what is trained: give other weights (loss.*), or train= another part"
        )
