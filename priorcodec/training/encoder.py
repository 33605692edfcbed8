"""Stage 1: train a new encoder with its entropy model and auxiliary decoder, before and without any diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from priorcodec.core.errors import ConfigError, TrainingError
from priorcodec.core.rd_loss import LambdaSchedule, rd_loss
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.training import checkpoint, words
from priorcodec.training.data import to_signed
from priorcodec.training.run import Run, StepBatch, description
from priorcodec.training.settings import EncoderRunConfig


def train_encoder(text: Sequence[str]) -> Path | None:
    """Train a new encoder.

    Args:
        text: `key=value` words of the command line.

    Returns:
        Path of the encoder file; None in all processes but the first.

    Raises:
        ConfigError: wrong settings.
        TrainingError: no data, a loss that is not finite, or a damaged run folder.
    """
    config = words.from_words(EncoderRunConfig, text)
    run = Run(config)
    run.log(
        "a new encoder has a new id: it does not decode files of any other, and every adapter must be trained again"
    )
    shape = EncoderConfig(**{f.name: getattr(config.encoder, f.name) for f in fields(EncoderConfig)})
    torch.manual_seed(config.seed)
    fast: Any = {"memory_format": torch.channels_last}
    model = ImageEncoder(shape).to(run.device, **fast)
    if config.start and not run.resumes:
        start_from(model, Path(config.start))
        run.log(f"starts with the averaged weights of {config.start}")
    objective = Objective(model, LambdaSchedule(**vars(config.lambdas), levels=shape.levels), bf16=run.bf16)
    loop = run.loop(objective, identity={})
    batches = run.batches(loop, shape.levels)
    with run.monitor(loop, objective.show) as monitor:
        loop.run(lambda step: objective.step(loop.wrapped, next(batches)), after=monitor)
        loop.swap_average()
        monitor.save_samples()
    if not run.main:
        return None
    target = run.folder / "encoder.safetensors"
    run.log(f"encoder {save_encoder(model, target, description(config, loop)):08x}")
    return target


class Objective(nn.Module):
    """Batch -> rate-distortion loss, with mean rate (bpp) and PSNR to watch."""

    def __init__(self, model: ImageEncoder, schedule: LambdaSchedule, *, bf16: bool):
        super().__init__()
        self.model, self.schedule, self.bf16 = model, schedule, bf16

    def step(self, wrapped: Any, batch: StepBatch) -> tuple[Tensor, dict[str, float]]:
        """Loss and scalars to log of one batch. wrapped: this module in its trainer."""
        loss, terms = wrapped(batch.images, batch.quality, batch.uniform())
        return loss, {"loss": loss.item()} | {key: term.item() for key, term in terms.items()}

    def forward(self, images: Tensor, quality: Tensor, uniform: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """images uint8 (b, 3, h, w), quality (b,) in levels, uniform: see `rd_loss` -> loss and terms."""
        x = to_signed(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):  # the transforms alone run in bfloat16
            out = rd_loss(self.model, x, quality, self.schedule, autocast=self.bf16, uniform=uniform)
        return out.loss, {"bpp": out.bpp.mean(), "psnr": (10 * torch.log10(255**2 / out.mse)).mean()}

    def show(self, x: Tensor) -> list[Tensor]:
        """x (1, 3, h, w) -> its previews at a low and a high quality."""
        top = self.model.config.levels - 1
        return [self.model(x, torch.full((1,), q * top, device=x.device)).x_hat for q in (0.2, 0.8)]


@torch.no_grad()
def start_from(model: ImageEncoder, folder: Path) -> None:
    """Copy the averaged weights of another run of the same shape.

    Raises:
        ConfigError: no checkpoint there.
        TrainingError: a damaged one, or one of another shape.
    """
    path = folder / checkpoint.NAME
    if not path.exists():
        raise ConfigError(f"start={folder}: no {checkpoint.NAME} there, wanted the folder of another run")
    state = checkpoint.read(path)
    try:
        model.load_state_dict({key.removeprefix("model."): value for key, value in state["model"].items()})
        for parameter, average in zip(model.parameters(), state["average"], strict=True):
            parameter.copy_(average)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(f"start={folder}: a run of another shape ({str(error).splitlines()[0]})") from error
