"""Progress of a training run for people: bar or log lines, TensorBoard, sample images."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from priorcodec.core.errors import PriorCodecError, TrainingError
from priorcodec.core.image import io as image_io
from priorcodec.training.loop import Loop

log = logging.getLogger(__name__)

SAMPLE_SIDE, SAMPLES = 256, 8


class TrainingMonitor:
    """A context manager that the loop calls behind every step.

    Args:
        loop: what is watched.
        originals: sample images, see `sample_images`.
        draw: x (1, 3, h, w) -> images to show beside it.
        every: steps between sample images.
        active: whether this process shows anything; the others only take part in what the loop does in all of them.
    """

    def __init__(
        self,
        loop: Loop,
        originals: Sequence[Tensor],
        draw: Callable[[Tensor], list[Tensor]],
        *,
        every: int,
        active: bool,
    ):
        self.loop, self.originals, self.draw, self.every, self.active = loop, originals, draw, every, active
        self.bar: Any = None
        self.writer: Any = None
        self.stack = ExitStack()

    def __enter__(self) -> TrainingMonitor:
        if not self.active:
            return self
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.loop.folder / "tensorboard"), purge_step=self.loop.step or None)
            self.stack.callback(self.writer.close)
        else:
            log.info("no TensorBoard scalars (pip install 'priorcodec[train]'); log.jsonl has the same numbers")
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self.bar = self.stack.enter_context(Progress(*columns, console=Console(stderr=True)))
            self.task = self.bar.add_task("training", total=1.0, completed=self.loop.progress)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def __call__(self, row: dict[str, float] | None) -> None:
        loop = self.loop
        if self.bar:
            self.bar.update(self.task, completed=loop.progress)
        if row and self.active:
            self._show({key: value for key, value in row.items() if key not in ("step", "minutes")})
        if loop.step % self.every == 0 and loop.progress < 1:
            loop.swap_average()
            self.save_samples()
            loop.swap_average()

    def _show(self, terms: dict[str, float]) -> None:
        loop = self.loop
        text = f"step {loop.step} " + " ".join(f"{key} {value:.4g}" for key, value in terms.items())
        if self.bar:
            self.bar.update(self.task, description=text)
        else:
            log.info("%3.0f%% %s", 100 * loop.progress, text)
        if self.writer:
            for key, value in terms.items():
                self.writer.add_scalar(key, value, loop.step)
            self.writer.add_scalar("lr", loop.optimizer.param_groups[0]["lr"], loop.step)

    def save_samples(self) -> None:
        """Write one PNG with a row per sample image: the original, then what `draw` makes of it."""
        if not self.originals:
            return
        with torch.no_grad():
            lines = [torch.cat([x, *self.draw(x)], 3) for x in self.originals]
        montage = image_io.to_pixels(torch.cat(lines, 2).float().cpu())
        target = self.loop.folder / "samples" / f"{self.loop.step:07d}.png"
        target.parent.mkdir(exist_ok=True)
        image_io.save(montage, target)
        if self.writer:
            self.writer.add_image("samples", montage, self.loop.step, dataformats="HWC")


def sample_images(folder: str | None) -> list[Tensor]:
    """Up to 8 images of a folder, their middles cut to 256 pixels a side (smaller ones enlarged), as x (1, 3, 256, 256).

    Raises:
        TrainingError: no image there that can be read.
    """
    if folder is None:
        return []
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in image_io.SUFFIXES and not p.is_dir())
    found: list[Tensor] = []
    for path in paths:
        if len(found) == SAMPLES:
            break
        try:
            found.append(_middle(image_io.load(path, background="white").pixels))
        except PriorCodecError as error:
            log.warning("left out: %s", error)
    if not found:
        raise TrainingError(
            f"samples={folder}: no image there that can be read ({', '.join(sorted(image_io.SUFFIXES))})"
        )
    return found


def _middle(pixels: np.ndarray) -> Tensor:
    height, width = pixels.shape[:2]
    side = min(height, width, SAMPLE_SIDE)
    top, left = (height - side) // 2, (width - side) // 2
    x = image_io.to_tensor(pixels[top : top + side, left : left + side])
    return x if side == SAMPLE_SIDE else F.interpolate(x, size=SAMPLE_SIDE, mode="bilinear")
