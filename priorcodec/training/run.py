"""What every training command shares: settings, run folder, device and processes, batches, progress, sample images.

All that is random in step n is drawn from (seed, n) for the whole batch, and each process takes its slice: one process, two
processes and a resumed run see the same images, qualities and noise.
"""

from __future__ import annotations

import enum
import importlib.metadata
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from priorcodec.config import compose
from priorcodec.core.errors import ConfigError, PriorCodecError, TrainingError
from priorcodec.core.io import atomic
from priorcodec.training import data
from priorcodec.training.loop import CHECKPOINT, Budget, Loop

if TYPE_CHECKING:
    from accelerate import Accelerator

CONFIG = "config.yaml"
HARMLESS = {  # may differ when a run is resumed: they decide when it ends and what is shown, not what is learned
    *(
        "steps",
        "minutes",
        "save_minutes",
        "log_every",
        "samples",
        "sample_every",
        "workers",
        "run",
        "data_note",
        "license",
    ),
}
SAMPLE_SIDE, SAMPLES = 256, 8
OWN_STREAM = 2**32 - 1  # apart from the slots of a batch, which count from 0


class Precision(enum.StrEnum):
    """bf16: autocast, weights stay float32; no: float32 throughout."""

    bf16 = "bf16"
    no = "no"


class Device(enum.StrEnum):
    """auto: a GPU if there is one (under `accelerate launch` each process has its own)."""

    auto = "auto"
    cpu = "cpu"


def setting(default: Any, text: str) -> Any:
    """A field that says what it is: docs/train.md is checked against it."""
    return field(default=default, metadata={"help": text})


@dataclass
class RunConfig:
    """Settings of every training run."""

    data: str = setting("", "folders, images and tar shards with commas between, or one packed file")
    run: str = setting("", "run folder: settings, checkpoint, log, samples, result; resumed if it holds a checkpoint")
    start: str | None = setting(None, "where the weights come from instead of a fresh start")
    steps: int = setting(100_000, "optimizer steps")
    minutes: float | None = setting(None, "stop cleanly inside this time, the schedule at its end")
    batch: int = setting(12, "images per step, over all processes and accumulated parts")
    accumulate: int = setting(1, "parts a step is cut into, for memory")
    crop: int = setting(128, "side of the training crops in pixels, a multiple of 64")
    enlarged: float = setting(0.0, "share of the crops that are a smaller part, enlarged: smooth, as large images are")
    lr: float = setting(2.5e-4, "highest learning rate")
    warmup: int = setting(200, "steps until it is reached")
    clip: float = setting(1.0, "largest norm of the gradient")
    ema: float = setting(0.998, "decay of the averaged weights, which are the result")
    seed: int = setting(0, "of everything random")
    precision: Precision = setting(Precision.bf16, "bf16 or no")
    device: Device = setting(Device.auto, "auto or cpu")
    workers: int | None = setting(None, "loader processes; default 2 on a GPU, else 0")
    samples: str | None = setting(None, "folder of images to show while training (run/samples, TensorBoard)")
    sample_every: int = setting(1000, "steps between sample images")
    save_minutes: float = setting(4.0, "between checkpoints; 0 for one after every step")
    log_every: int = setting(50, "steps between rows of log.jsonl and TensorBoard")
    data_note: str = setting("not stated", "what the images are, written into the result")
    license: str = setting("unknown", "of the result, written into it")

    def problems(self) -> list[str]:
        """What the types alone cannot tell."""
        found = [f"{key}=: not given" for key in ("data", "run") if not getattr(self, key)]
        positive = ("steps", "batch", "accumulate", "crop", "lr", "clip", "warmup", "sample_every", "log_every")
        found += [f"{key}={getattr(self, key)}: wanted more than 0" for key in positive if not getattr(self, key) > 0]
        if self.crop % 64:
            found.append(f"crop={self.crop}: wanted a multiple of 64")
        if not 0 <= self.enlarged <= 1:
            found.append(f"enlarged={self.enlarged}: wanted 0 to 1")
        if not 0 <= self.ema < 1:
            found.append(f"ema={self.ema}: wanted 0 <= ema < 1")
        if self.minutes is not None and not self.minutes > 0:
            found.append(f"minutes={self.minutes}: wanted more than 0")
        return found

    def budget(self) -> Budget:
        minutes = math.inf if self.minutes is None else self.minutes
        return Budget(
            lr=self.lr, steps=self.steps, max_minutes=minutes, warmup=self.warmup, clip=self.clip, ema=self.ema,
            save_minutes=self.save_minutes, log_every=self.log_every,
        )  # fmt: skip


def mutable(frozen: type, name: str, meaning: Mapping[str, str]) -> type:
    """A frozen dataclass's fields as settings (OmegaConf makes frozen ones read-only); meaning: a text for each."""
    hints = get_type_hints(frozen)
    return make_dataclass(name, [(f.name, hints[f.name], setting(f.default, meaning[f.name])) for f in fields(frozen)])


def rows(schema: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of every setting."""
    hints = get_type_hints(schema)
    for f in fields(schema):
        if hasattr(hints[f.name], "__dataclass_fields__"):
            yield from rows(hints[f.name], f"{prefix}{f.name}.")
        else:
            default = (
                "" if f.default is None else str(f.default).lower() if isinstance(f.default, bool) else str(f.default)
            )
            yield f"{prefix}{f.name}", default, f.metadata.get("help", "")


def keep_config(config: RunConfig) -> None:
    """Save the settings in the run folder, or hold them against those the run began with.

    Raises:
        ConfigError: a setting differs that changes what is learned.
    """
    from omegaconf import OmegaConf

    path = Path(config.run) / CONFIG
    if path.exists():
        new, old = _flat(config), _flat(compose(type(config), file=path))
        changed = [f"{key}={new[key]} (was {old[key]})" for key in new if new[key] != old[key]]
        changed = [text for text in changed if text.partition("=")[0] not in HARMLESS]
        if changed:
            raise ConfigError(
                f"{config.run} began with other settings: {', '.join(changed)}: keep them, or use another run="
            )
    atomic.write(path, OmegaConf.to_yaml(OmegaConf.structured(config)).encode())


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not hasattr(value, "__dataclass_fields__"):
        return {prefix[:-1]: str(list(value) if isinstance(value, tuple) else value)}
    parts = [_flat(getattr(value, f.name), f"{prefix}{f.name}.") for f in fields(value)]
    return {key: text for part in parts for key, text in part.items()}


class Run:
    """The surroundings of one training: made once per process, in every process alike.

    say: prints one line, in the first process only.
    Raises:
        ConfigError: other settings than the run began with, or a batch that the processes cannot share.
    """

    def __init__(self, config: RunConfig):
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        self.config = config
        self.accelerator: Accelerator = Accelerator(
            cpu=config.device is Device.cpu,
            mixed_precision=str(config.precision),
            gradient_accumulation_steps=config.accumulate,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True)
            ],  # a backbone may ignore tokens
        )
        self.folder, self.device = Path(config.run), self.accelerator.device
        self.main = self.accelerator.is_main_process
        count = self.accelerator.num_processes
        if config.batch % (count * config.accumulate):
            raise ConfigError(
                f"batch={config.batch}: {count} processes with accumulate={config.accumulate} cannot share it evenly, "
                f"wanted a multiple of {count * config.accumulate}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.accelerator.main_process_first():
            if self.main:
                keep_config(config)
            self.packed = data.packed(config.data.split(","), self.folder / "images")
        torch.manual_seed(config.seed)  # of fresh weights

    @property
    def resumes(self) -> bool:
        """Whether the folder holds a checkpoint: then nothing else says where the weights begin."""
        return (self.folder / CHECKPOINT).exists()

    @property
    def bf16(self) -> bool:
        return self.config.precision is Precision.bf16

    def say(self, text: str) -> None:
        if self.main:
            print(text, file=sys.stderr)

    def train(
        self,
        objective: torch.nn.Module,
        call: Callable[[Any, Draw], tuple[Tensor, dict[str, Tensor]]],
        *,
        levels: int,
        identity: dict[str, str],
        draw: Callable[[Tensor], list[Tensor]],
    ) -> Loop:
        """Train `objective`'s parameters to the end of the budget; the averaged weights are in place afterwards.

        call: (wrapped objective, batch) -> loss and its terms; draw: x (1, 3, h, w) -> images to show beside it.
        """
        loop = Loop(
            objective, self.folder, self.config.budget(), accelerator=self.accelerator, identity=identity
        )  # fmt: skip
        if loop.step:
            self.say(f"resumed at step {loop.step} after {loop.minutes:.1f} minutes")
        draws = self._draws(loop, levels)

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            value, terms = call(loop.wrapped, next(draws))
            return value, {"loss": value.item()} | {key: term.item() for key, term in terms.items()}

        with Watch(self, loop, draw) as watch:
            loop.run(loss, after=watch)
            loop.swap_average()
            watch.images()
        return loop

    def _draws(self, loop: Loop, levels: int) -> Iterator[Draw]:
        config, a = self.config, self.accelerator
        size = config.batch // (a.num_processes * config.accumulate)
        starts = [(part * a.num_processes + a.process_index) * size for part in range(config.accumulate)]
        parts = [range(start, start + size) for start in starts]
        workers = (2 if self.device.type == "cuda" else 0) if config.workers is None else config.workers
        slots = data.Slots(self.packed, config.crop, seed=config.seed, enlarged=config.enlarged)
        step = loop.step
        for i, x in enumerate(data.loader(slots, step=step, parts=parts, workers=workers)):
            now, part = step + i // len(parts), parts[i % len(parts)]
            rng = np.random.default_rng([config.seed, now, OWN_STREAM])
            # stratified: each batch covers the whole range of qualities
            quality = (rng.permutation(config.batch) + rng.random(config.batch)) * (levels - 1) / config.batch
            yield Draw(
                images=x.to(self.device, non_blocking=True),
                quality=torch.from_numpy(quality[part.start : part.stop]).float().to(self.device),
                slots=part, batch=config.batch, rng=rng,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Draw:
    """This process's slice of one step. images: uint8 (b, 3, crop, crop); quality (b,) in levels; slots: where the slice
    lies in the whole batch; rng: further random numbers of this step, the same in all processes."""

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

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.images.device).manual_seed(int(self.rng.integers(2**62)))


class Watch:
    """What a person sees of a run: progress bar, TensorBoard, sample images. Called by the loop behind every step."""

    def __init__(self, run: Run, loop: Loop, draw: Callable[[Tensor], list[Tensor]]):
        self.run, self.loop, self.draw = run, loop, draw
        self.bar: Any = None
        self.writer: Any = None
        self.stack = ExitStack()
        self.originals = sample_images(run.config.samples, run.device) if run.main else []

    def __enter__(self) -> Watch:
        if not self.run.main:
            return self
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.run.folder / "tensorboard"), purge_step=self.loop.step or None)
            self.stack.callback(self.writer.close)
        else:
            self.run.say("no TensorBoard scalars (pip install 'priorcodec[train]'); log.jsonl has the same numbers")
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
        if row:
            terms = {key: value for key, value in row.items() if key not in ("step", "minutes")}
            if self.bar:
                text = " ".join(f"{key} {value:.4g}" for key, value in terms.items())
                self.bar.update(self.task, description=f"step {loop.step} {text}")
            if self.writer:
                for key, value in terms.items():
                    self.writer.add_scalar(key, value, loop.step)
                self.writer.add_scalar("lr", loop.optimizer.param_groups[0]["lr"], loop.step)
        if loop.step % self.run.config.sample_every == 0 and loop.progress < 1:
            loop.swap_average()
            self.images()
            loop.swap_average()

    def images(self) -> None:
        """One PNG, a row per image: the original, then what `draw` makes of it."""
        from priorcodec.core.image import io as image_io

        if not self.originals:
            return
        with torch.no_grad():
            lines = [torch.cat([x, *self.draw(x)], 3) for x in self.originals]
        montage = image_io.to_pixels(torch.cat(lines, 2).float().cpu())
        target = self.run.folder / "samples" / f"{self.loop.step:07d}.png"
        target.parent.mkdir(exist_ok=True)
        image_io.save(montage, target)
        if self.writer:
            self.writer.add_image("samples", montage, self.loop.step, dataformats="HWC")


def sample_images(folder: str | None, device: torch.device) -> list[Tensor]:
    """Up to 8 images, their middles cut to 256 pixels a side (smaller ones enlarged), as x (1, 3, 256, 256).

    Raises:
        TrainingError: no image there.
    """
    from priorcodec.core.image import io as image_io

    if folder is None:
        return []
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in data.SUFFIXES)[:SAMPLES]
    if not paths:
        raise TrainingError(f"samples={folder}: no image there ({', '.join(sorted(data.SUFFIXES))})")
    found = []
    for path in paths:
        try:
            pixels = image_io.load(path, background="white").pixels
        except PriorCodecError as error:
            raise TrainingError(f"samples={folder}: {error}") from error
        x = data.to_signed(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1))[None]
        side = min(x.shape[-2:])
        if side < SAMPLE_SIDE:
            x = torch.nn.functional.interpolate(x, scale_factor=SAMPLE_SIDE / side + 1e-6, mode="bilinear")
        top, left = (x.shape[-2] - SAMPLE_SIDE) // 2, (x.shape[-1] - SAMPLE_SIDE) // 2
        found.append(x[..., top : top + SAMPLE_SIDE, left : left + SAMPLE_SIDE].to(device))
    return found


def description(config: RunConfig, loop: Loop) -> dict[str, str]:
    """What a result says of its making."""
    return {
        "steps": str(loop.step), "minutes": f"{loop.minutes:.1f}", "batch": str(config.batch), "crop": str(config.crop),
        "data": config.data_note, "license": config.license, "version": _version(),
    }  # fmt: skip


def freeze_check(before: dict[str, str], after: dict[str, str]) -> None:
    """Raises TrainingError: something that must stay as it was did not."""
    changed = [key for key in before if before[key] != after[key]]
    if changed:
        raise TrainingError(f"the {' and the '.join(changed)} changed while training: a bug, the result is not written")


def fingerprint(modules: Sequence[torch.nn.Module], skip: Callable[[str], bool] = lambda name: False) -> str:
    """SHA-256 over names, shapes and bits of all parameters and buffers, the same with and without LoRA beside them."""
    import hashlib

    digest = hashlib.sha256()
    for module in modules:
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        plain = {name.replace(".base_layer.", "."): tensors[name] for name in tensors if not skip(name)}
        for name, tensor in sorted(plain.items()):
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(memoryview(value.flatten().view(torch.uint8).numpy()))  # pyright: ignore
    return digest.hexdigest()[:16]


def _version() -> str:
    try:
        return importlib.metadata.version("priorcodec")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"
