"""Checkpoints of the training loop: written beside and renamed, so that a process that dies at any moment leaves a whole one."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from priorcodec.core.errors import TrainingError

NAME = "checkpoint.pt"
REQUIRED = {"model", "average", "optimizer", "step", "minutes", "rng"}


def write(path: Path, state: dict[str, Any]) -> None:
    """Raises TrainingError: the disk is full, or the folder cannot be written."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError when a disk is full
        part.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(error).partition("\n")[0]
        raise TrainingError(f"cannot write {path} ({reason}): make room there and resume") from error


def read(path: Path) -> dict[str, Any]:
    """The state that `write` kept, on the CPU. Raises TrainingError: cut short, damaged, or something else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise TrainingError(f"{path} is damaged: delete it to start over, or use another run folder") from error
    if not isinstance(state, dict) or not state.keys() >= REQUIRED:
        raise TrainingError(f"{path} is not a checkpoint of a training run: delete it, or use another run folder")
    return state
