"""`priorcodec train adapter | encoder`: words of the command line -> settings -> registry, weights, training.

The session's counterpart for training; `docs/train.md` is its manual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from priorcodec.config import compose
from priorcodec.core.codec import WEIGHTS
from priorcodec.core.errors import ConfigError, TrainingError
from priorcodec.core.rd_loss import LambdaSchedule, rd_loss
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.training import adapter as adapter_training
from priorcodec.training import run as runs
from priorcodec.training.adapter import AdapterRunConfig
from priorcodec.training.data import to_signed
from priorcodec.training.loop import CHECKPOINT
from priorcodec.training.run import setting

if TYPE_CHECKING:
    from priorcodec.registry import Registry

MEANING = {
    "n8": "channels at stride 8",
    "n16": "channels at stride 16",
    "m": "coded channels",
    "m_h": "channels of the hyper-latent",
    "n": "width of the entropy model",
    "depth": "residual blocks per stride",
    "levels": "quality levels",
}
EncoderShape: Any = runs.mutable(EncoderConfig, "EncoderShape", MEANING)


@dataclass
class LadderConfig:
    """The rate-distortion trade-off; see core.pretext.LambdaSchedule."""

    lowest: float = setting(6e-5, "lambda at quality 0")
    highest: float = setting(1e-2, "lambda at the highest quality")
    balance: float = setting(0.4, "how much the low rates weigh: level s counts lambda_s ** -balance")


@dataclass
class EncoderRunConfig(runs.RunConfig):
    """Settings of `priorcodec train encoder`."""

    batch: int = setting(8, "images per step, over all processes and accumulated parts")
    crop: int = setting(256, "side of the training crops in pixels, a multiple of 64")
    lr: float = setting(6e-4, "highest learning rate")
    encoder: EncoderShape = field(default_factory=EncoderShape)  # pyright: ignore[reportInvalidTypeForm]
    ladder: LadderConfig = field(default_factory=LadderConfig)

    def problems(self) -> list[str]:
        found = super().problems()
        sizes = {f.name: getattr(self.encoder, f.name) for f in fields(EncoderConfig)}
        found += [f"encoder.{key}={value}: wanted at least 1" for key, value in sizes.items() if value < 1]
        if self.encoder.levels < 2:
            found.append(f"encoder.levels={self.encoder.levels}: wanted at least 2")
        if not 0 < self.ladder.lowest <= self.ladder.highest:
            found.append(
                f"ladder: lowest={self.ladder.lowest}, highest={self.ladder.highest}, wanted 0 < lowest <= highest"
            )
        return found


def settings(schema: type[Any], words: Sequence[str], *, names: Sequence[str] = ()) -> Any:
    """`config=FILE` and `key=value` words -> settings; `backbone=NAME` is short for `backbone.name=NAME`.

    Raises:
        ConfigError: one line for every wrong word.
    """
    own = [Path(w.removeprefix("config=")) for w in words if w.startswith("config=")]
    words = [w for w in words if not w.startswith("config=")]
    words = [f"backbone.name{w.removeprefix('backbone')}" if w.startswith("backbone=") else w for w in words]
    problems = [f"config={path}: no such file" for path in own if not path.is_file()]
    chosen = [w.partition("=")[2] for w in words if w.startswith("backbone.name=")]
    if names and chosen and chosen[-1] not in names:
        problems.append(f"backbone={chosen[-1]}: no such backbone; known: {', '.join(sorted(names))}")
    return compose(schema, words, file=next((p for p in own if p.is_file()), None), problems=problems)


def train_adapter(words: Sequence[str], *, registry: Registry | None = None) -> Path | None:
    """Train the adapter of one backbone; the path of its file (None in all processes but the first).

    Raises:
        ConfigError: wrong settings. WeightsError, AdapterError: something it starts from. TrainingError: it must not go on.
    """
    from priorcodec.registry import open_registry

    registry = registry or open_registry()
    config: AdapterRunConfig = settings(AdapterRunConfig, words, names=list(registry.specs()))
    spec = registry.spec(config.backbone.name)
    weights = None if config.tiny else registry.weights(spec, config.backbone.weights)
    encoder = Path(config.encoder) if config.encoder else WEIGHTS / "encoder.safetensors"
    return adapter_training.train(config, spec, weights, encoder, known=registry.specs())


class Pretext(nn.Module):
    """Batch -> stage-1 loss and what to watch: rate and quality of the lower and the upper half of the levels."""

    def __init__(self, model: ImageEncoder, ladder: LambdaSchedule, *, bf16: bool):
        super().__init__()
        self.model, self.ladder, self.bf16 = model, ladder, bf16

    def forward(self, images: Tensor, quality: Tensor, uniform: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x = to_signed(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):  # the transforms alone run in bfloat16
            out = rd_loss(self.model, x, quality, self.ladder, autocast=self.bf16, uniform=uniform)
        return out.loss, {"bpp": out.bpp.mean(), "psnr": (10 * torch.log10(255**2 / out.mse)).mean()}

    def show(self, x: Tensor) -> list[Tensor]:
        """x (1, 3, h, w) -> its previews at a low and a high quality."""
        top = self.model.config.levels - 1
        return [self.model(x, torch.full((1,), q * top, device=x.device)).x_hat for q in (0.2, 0.8)]


def train_encoder(words: Sequence[str]) -> Path | None:
    """Train a new encoder; the path of its file (None in all processes but the first).

    Raises:
        ConfigError: wrong settings. TrainingError: it must not go on.
    """
    config: EncoderRunConfig = settings(EncoderRunConfig, words)
    run = runs.Run(config)
    run.say(
        "a new encoder has a new id: it does not decode the files of any other, and every adapter must be trained again"
    )
    shape = EncoderConfig(**{f.name: getattr(config.encoder, f.name) for f in fields(EncoderConfig)})
    values = {f.name: getattr(config.ladder, f.name) for f in fields(LadderConfig)}
    torch.manual_seed(config.seed)
    fast: Any = {"memory_format": torch.channels_last}
    model = ImageEncoder(shape).to(run.device, **fast)
    if config.start and not run.resumes:
        start_from(model, Path(config.start))
        run.say(f"starts with the averaged weights of {config.start}")
    objective = Pretext(model, LambdaSchedule(**values, levels=shape.levels), bf16=run.bf16)

    def call(wrapped: Any, draw: runs.Draw) -> tuple[Tensor, dict[str, Tensor]]:
        return wrapped(draw.images, draw.quality, draw.uniform())

    loop = run.train(objective, call, levels=shape.levels, identity={}, draw=objective.show)
    if not run.main:
        return None
    target = run.folder / "encoder.safetensors"
    run.say(f"encoder {save_encoder(model, target, runs.description(config, loop)):08x}")
    return target


@torch.no_grad()
def start_from(model: ImageEncoder, folder: Path) -> None:
    """Copy the averaged weights of another run of the same shape.

    Raises:
        ConfigError: no checkpoint there. TrainingError: of another shape.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise ConfigError(f"start={folder}: no {CHECKPOINT} there, wanted the folder of another run")
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict({key.removeprefix("model."): value for key, value in state["model"].items()})
        for parameter, average in zip(model.parameters(), state["average"], strict=True):
            parameter.copy_(average)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"start={folder}: a run of another shape ({str(error).splitlines()[0]})") from error
