"""Stage 1: train a new encoder with its entropy model and auxiliary decoders, before and without any diffusion model.

loss = mean over images of w(quality) * (bpp + lambda(quality) * D)
D = squared error of g_s, or PIXELS * squared error + weight * perceptual distance of g_p: every other image of a batch
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from priorcodec.core.errors import ConfigError, TrainingError
from priorcodec.core.image import io as image_io
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.transforms import ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.training import checkpoint, frequencies, words
from priorcodec.training.perceptual import Look, PerceptualDistance
from priorcodec.training.run import Run, StepBatch, description
from priorcodec.training.settings import EncoderRunConfig

RESULT = "encoder.safetensors"
PIXELS = 0.3  # share of squared error in the distortion of the perceptual decoder


def train_encoder(text: Sequence[str]) -> Path | None:
    """Train a new encoder.

    Args:
        text: `key=value` words of the command line.

    Returns:
        Path of the encoder file; None in all processes but the first.

    Raises:
        ConfigError: wrong settings, or a run folder that holds other files.
        TrainingError: no data, a loss that is not finite, or a damaged run folder.
    """
    config = words.from_words(EncoderRunConfig, text)
    with Run(config, result=RESULT) as run:
        return _train(run, config)


def _train(run: Run, config: EncoderRunConfig) -> Path | None:
    run.log(
        "a new encoder has a new id: it does not decode files of any other, and every adapter must be trained again"
    )
    shape = config.shape()
    torch.manual_seed(config.seed)
    fast: Any = {"memory_format": torch.channels_last}
    model = ImageEncoder(shape).to(run.device, **fast)
    if config.start and not run.resumes:
        start_from(model, Path(config.start))
        run.log(f"starts with the averaged weights of {config.start}")
    distance = None
    if config.distance:
        distance = PerceptualDistance().to(run.device, **fast)
    try:
        schedule = LambdaSchedule(**vars(config.lambdas), levels=shape.levels)
    except ValueError as error:
        raise ConfigError(f"lambdas.*: wanted 0 < lowest <= highest and finite numbers, got {error}") from error
    objective = Objective(model, schedule, distance, weight=config.distance, bf16=run.bf16)
    loop = run.loop(objective, identity={})
    batches = run.batches(loop, shape.levels)
    with run.monitor(loop, objective.show) as monitor:
        loop.run(lambda step: objective.step(loop.wrapped, next(batches)), after=monitor)
        loop.swap_average()
        monitor.save_samples()
    if not run.main:
        return None
    target = run.folder / RESULT
    found = frequencies.count(model, (run.crops[loop.step, slot] for slot in range(config.counted)))
    metadata = {**description(config, loop), "lambdas": json.dumps(vars(config.lambdas))}
    identity = save_encoder(model, target, metadata, frequencies=found.tables())
    run.log(f"encoder {identity:08x}")
    return target


class Objective(nn.Module):
    """Batch -> rate-distortion loss, with mean rate (bpp) and PSNR to watch.

    Args:
        model: The encoder, which is trained.
        schedule: lambda and weight of each quality.
        distance: The perceptual distance; None for squared error alone.
        weight: Of the distance.
        bf16: Whether the transforms run in bfloat16.
    """

    def __init__(
        self,
        model: ImageEncoder,
        schedule: LambdaSchedule,
        distance: PerceptualDistance | None,
        *,
        weight: float,
        bf16: bool,
    ):
        super().__init__()
        self.model, self.schedule, self.weight, self.bf16 = model, schedule, weight, bf16
        self._distance = (distance,)  # in a tuple: no submodule, neither trained nor saved with this one

    def step(self, wrapped: Any, batch: StepBatch) -> tuple[Tensor, dict[str, float]]:
        """Loss and scalars to log of one batch. wrapped: this module in its trainer."""
        perceptual = torch.tensor([slot % 2 == 1 for slot in batch.slots], device=batch.images.device)
        (distance,), rng = self._distance, random.Random(batch.seed())
        look = None if distance is None else distance.draw(rng, batch.images.shape[-2:])
        loss, terms = wrapped(batch.images, batch.quality, perceptual, batch.uniform(), look)
        return loss, {"loss": loss.item()} | {key: term.item() for key, term in terms.items()}

    def forward(
        self, images: Tensor, quality: Tensor, perceptual: Tensor, uniform: Any, look: Look | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch, and terms to watch.

        Args:
            images: uint8 (b, 3, h, w).
            quality: In levels (b,).
            perceptual: Whether an image goes through g_p, else through g_s (b,).
            uniform: See `relaxed_bits`.
            look: Of the perceptual distance.
        """
        x = image_io.to_range(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):  # the transforms alone run in bfloat16
            coded = self.model.code(x, quality, autocast=self.bf16, uniform=uniform)
            distortion, mse = x.new_zeros(len(x)), x.new_zeros(len(x))
            for chosen in (~perceptual, perceptual):
                if not bool(chosen.any()):
                    continue
                looks = chosen is perceptual
                x_hat = self.model.synthesize(
                    coded.y_hat[chosen], quality[chosen], perceptual=looks, autocast=self.bf16
                )
                error = (x_hat - x[chosen]).square().mean((1, 2, 3)) * 127.5**2
                mse = mse.index_put((chosen,), error.detach())
                if looks and self._distance[0] is not None:
                    assert look is not None  # `step` draws it
                    error = PIXELS * error + self.weight * self._distance[0](x_hat, x[chosen], look)
                distortion = distortion.index_put((chosen,), error)
        bpp = (coded.y_bits + coded.z_bits) / (x.shape[-1] * x.shape[-2])
        loss = (self.schedule.weights(quality) * (bpp + self.schedule.lambdas(quality) * distortion)).mean()
        return loss, {"bpp": bpp.mean(), "psnr": (10 * torch.log10(255**2 / mse)).mean()}

    def show(self, x: Tensor) -> list[Tensor]:
        """x (1, 3, h, w) -> its previews of both kinds at a low and a high quality."""
        shown = []
        for share in (0.2, 0.8):
            quality = torch.full((1,), share * (self.model.config.levels - 1), device=x.device)
            y_hat = self.model.code(x, quality).y_hat
            shown += [self.model.synthesize(y_hat, quality, perceptual=looks) for looks in (False, True)]
        return shown


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
