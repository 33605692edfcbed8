"""Common setup of the training commands: run folder, device and processes, batches, saved settings.

Everything random in step n is drawn from (seed, n) for the whole batch, and each process takes its slice: one process, two
processes and a resumed run see the same images, qualities and noise.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

import priorcodec
from priorcodec.core.errors import ConfigError, TrainingError
from priorcodec.core.io import atomic
from priorcodec.core.io.names import printable
from priorcodec.training import data, sources
from priorcodec.training.loop import CHECKPOINT, LOG, Loop
from priorcodec.training.monitor import TrainingMonitor, sample_images
from priorcodec.training.schedule import Budget
from priorcodec.training.settings import Device, RunConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from priorcodec.training.critic import CriticTrainer

logger = logging.getLogger(__name__)

CONFIG, LOCK = "config.yaml", ".run.lock"
# May differ when a run is resumed: they decide when it ends and what is shown, not what is learned. And the learning rate,
# which has to be lowered after a loss that is not finite.
RESUMABLE_OVERRIDES = {
    "steps", "minutes", "save_minutes", "log_every", "samples", "sample_every", "workers", "run", "data_note", "license", "lr",
    "critic.lr",
}  # fmt: skip
SHARED_STREAM = 2**32 - 1  # random numbers of a whole step; the slots of a batch count from 0


class Run:
    """The surroundings of one training, made once in every process. Whatever may take long or fail happens before the processes
    start to wait for each other. As a context, it keeps other trainings out of the run folder.

    Args:
        config: settings.
        result: name of the file that the training writes into its folder at the end.

    Attributes:
        folder: run folder.
        device: of this process.
        bf16: whether training runs in bfloat16 autocast.
        main: whether this process is the first one, which writes the files.

    Raises:
        ConfigError: other settings than the run began with, a folder that holds another file under the name of one that the
            training writes, or a batch that the processes cannot share.
        TrainingError: no image in `data` or `samples`.
    """

    def __init__(self, config: RunConfig, *, result: str):
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs
        except ImportError as error:
            raise TrainingError(f"training needs {error.name}: pip install 'priorcodec[train]'") from error

        self.config, self.folder = config, Path(config.run)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "a file" if self.folder.exists() else error.strerror
            raise ConfigError(f"run={config.run}: {reason}, wanted a folder to write to") from error
        save_or_verify_config(config, save=False)
        _check_free(config, result)
        entries = sources.find(config.data, self.folder, background=config.background)
        try:
            self.crops = data.DeterministicCrops(
                entries, config.crop, seed=config.seed, enlarged=config.enlarged, background=config.background
            )
        except TrainingError:
            (self.folder / sources.INDEX).unlink(missing_ok=True)  # what data= holds will change before the next try
            raise
        originals = sample_images(config.samples)
        cpu = config.device is Device.cpu or not torch.accelerator.is_available()
        self.bf16 = config.precision.bfloat16("cpu" if cpu else "cuda")
        self.accelerator: Accelerator = Accelerator(
            cpu=config.device is Device.cpu,
            mixed_precision="bf16" if self.bf16 else "no",
            gradient_accumulation_steps=config.accumulate,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True)  # a backbone may ignore tokens
            ],
        )
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.originals = [x.to(self.device) for x in originals] if self.main else []
        count = self.accelerator.num_processes
        if config.batch % (count * config.accumulate):
            raise ConfigError(
                f"batch={config.batch}: {count} processes with accumulate={config.accumulate} cannot share it evenly, "
                f"wanted a multiple of {count * config.accumulate}"
            )
        self._lock = FileLock(self.folder / LOCK, blocking=False)

    def __enter__(self) -> Self:
        """Raises TrainingError: another training has the folder."""
        if self.main:
            try:
                self._lock.acquire()
            except Timeout as error:
                raise TrainingError(
                    f"another process trains in {self.folder}: wait for it, or use another run folder"
                ) from error
            save_or_verify_config(self.config)
        self.log(f"{len(self.crops.entries):,} images of {self.config.crop} pixels and more")
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def resumes(self) -> bool:
        """Whether the folder holds a checkpoint, which then states all weights."""
        return (self.folder / CHECKPOINT).exists()

    def log(self, text: str) -> None:
        """Log one line, in the first process only."""
        if self.main:
            logger.info(text)

    def loop(
        self, objective: torch.nn.Module, *, identity: dict[str, str], critic: CriticTrainer | None = None
    ) -> Loop:
        """The loop that trains `objective`'s parameters, resumed if the folder holds a checkpoint."""
        c = self.config
        budget = Budget(
            lr=c.lr, steps=c.steps, max_minutes=math.inf if c.minutes is None else c.minutes, warmup=c.warmup, clip=c.clip,
            ema=c.ema, save_minutes=c.save_minutes, log_every=c.log_every,
        )  # fmt: skip
        loop = Loop(
            objective, self.folder, budget, accelerator=self.accelerator, identity=identity, critic=critic
        )  # fmt: skip
        if loop.step:
            self.log(f"resumed at step {loop.step} after {loop.minutes:.1f} minutes")
        return loop

    def monitor(self, loop: Loop, draw: Callable[[Tensor], list[Tensor]]) -> TrainingMonitor:
        """draw: x (1, 3, h, w) -> images to show beside it."""
        return TrainingMonitor(loop, self.originals, draw, every=self.config.sample_every, active=self.main)

    def batches(self, loop: Loop, levels: int) -> Iterator[StepBatch]:
        """This process's slices from the loop's step on, `accumulate` of them a step."""
        config, a = self.config, self.accelerator
        size = config.batch // (a.num_processes * config.accumulate)
        starts = [(part * a.num_processes + a.process_index) * size for part in range(config.accumulate)]
        parts = [range(start, start + size) for start in starts]
        workers = config.workers
        if workers is None:
            workers = min(8, os.cpu_count() or 1) if self.device.type == "cuda" else 0
        step = loop.step
        for i, x in enumerate(data.loader(self.crops, step=step, parts=parts, workers=workers)):
            now, part = step + i // len(parts), parts[i % len(parts)]
            rng = np.random.default_rng([config.seed, now, SHARED_STREAM])
            # stratified: each batch covers the whole range of qualities
            quality = (rng.permutation(config.batch) + rng.random(config.batch)) * (levels - 1) / config.batch
            yield StepBatch(
                images=x.to(self.device, non_blocking=True),
                quality=torch.from_numpy(quality[part.start : part.stop]).float().to(self.device),
                slots=part, batch=config.batch, rng=rng,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One process's slice of one step.

    Attributes:
        images: uint8 (b, 3, crop, crop).
        quality: in levels, (b,).
        slots: where the slice lies in the whole batch.
        batch: size of the whole batch.
        rng: further random numbers of this step, the same in all processes.
    """

    images: Tensor
    quality: Tensor
    slots: range
    batch: int
    rng: np.random.Generator

    def uniform(self) -> Callable[[Tensor], Tensor]:
        """tensor (b, ...) -> its slice of uniform noise drawn for the whole batch."""
        generator = self._generator()

        def draw(like: Tensor) -> Tensor:
            whole = torch.rand((self.batch, *like.shape[1:]), generator=generator, device=generator.device)
            return whole[self.slots.start : self.slots.stop]

        return draw

    def normal(self, *shape: int) -> Tensor:
        """Its slice (b, *shape) of standard normal noise drawn for the whole batch."""
        generator = self._generator()
        whole = torch.randn((self.batch, *shape), generator=generator, device=generator.device)
        return whole[self.slots.start : self.slots.stop]

    def seed(self) -> int:
        """A further seed of this step, the same in all processes."""
        return int(self.rng.integers(2**62))

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.images.device).manual_seed(self.seed())


def save_or_verify_config(config: RunConfig, *, save: bool = True) -> None:
    """Compare the settings with those of the run folder's checkpoint, if it has one, then save them there.

    Args:
        config: of this run.
        save: False compares only.

    Raises:
        ConfigError: a setting differs that changes what is learned, or the saved settings are damaged.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = Path(config.run) / CONFIG
    if path.exists() and (Path(config.run) / CHECKPOINT).exists():
        new = _flat(OmegaConf.structured(config))
        try:
            saved = OmegaConf.load(path)
            kinds = {"backbone": "adapter", "lambdas": "encoder"}
            others = [name for key, name in kinds.items() if not hasattr(config, key) and key in saved]
            if isinstance(saved, DictConfig) and others:
                raise ConfigError(f"{config.run} holds a run of `train {others[0]}`: use another run folder")
            old = _flat(OmegaConf.merge(OmegaConf.structured(type(config)), saved))
        except (OmegaConfBaseException, YAMLError, OSError, TypeError, ValueError, RecursionError) as error:
            reason = printable(str(error).partition("\n")[0], 120)
            raise ConfigError(f"{path} is damaged ({reason}): put back a copy, or use another run folder") from error
        changed = [f"{key}={new[key]} (was {old[key]})" for key in new if new[key] != old[key]]
        changed = [text for text in changed if text.partition("=")[0] not in RESUMABLE_OVERRIDES]
        if changed:
            raise ConfigError(
                f"{config.run} began with other settings: {', '.join(changed)}: keep them, or use another run folder"
            )
    if save:
        atomic.write(path, OmegaConf.to_yaml(OmegaConf.structured(config)).encode())


def _check_free(config: RunConfig, result: str) -> None:
    """Raises ConfigError: the folder holds a file that no training in it wrote, and this one would replace."""
    folder = Path(config.run)
    own = [os.path.realpath(path) for path in (folder, folder / result)]
    foreign = [result] if config.start and os.path.realpath(config.start) in own else []
    if not (folder / CONFIG).exists():  # no training began here
        foreign += [name for name in (result, LOG) if os.path.lexists(folder / name)]
        index = folder / sources.INDEX
        foreign += [sources.INDEX] if os.path.lexists(index) and not sources.is_index(index) else []
    if foreign:
        raise ConfigError(
            f"run={config.run}: holds {foreign[0]}, which this training would replace: move it, or use another run folder"
        )


def _flat(settings: Any) -> dict[str, str]:
    """Settings as OmegaConf holds them -> dotted key to text, interpolations unresolved."""
    from omegaconf import OmegaConf

    def parts(value: Any, key: str) -> Iterator[tuple[str, str]]:
        if not isinstance(value, dict):
            yield key, str(value)
            return
        for name, part in value.items():
            yield from parts(part, f"{key}.{name}" if key else str(name))

    return dict(parts(OmegaConf.to_container(settings, resolve=False, enum_to_str=True), ""))


def description(config: RunConfig, loop: Loop) -> dict[str, str]:
    """Metadata of a result: how it was made."""
    return {
        "steps": str(loop.step), "minutes": f"{loop.minutes:.1f}", "batch": str(config.batch), "crop": str(config.crop),
        "data": config.data_note, "license": config.license, "version": priorcodec.__version__,
    }  # fmt: skip
