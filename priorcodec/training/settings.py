"""Settings of the training commands, each stated once: the help text, the table in docs/train.md and `run/config.yaml` come from
these fields."""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, get_type_hints

from priorcodec.adapters.config import AdapterConfig
from priorcodec.config import Dtype, split_list
from priorcodec.core.errors import AdapterError, ImageError
from priorcodec.core.image.color import parse_color
from priorcodec.core.precision import bfloat16_is_fast
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.transforms import EncoderConfig
from priorcodec.core.weights import problems as encoder_problems


class Precision(enum.StrEnum):
    """bf16: bfloat16 autocast, trained weights stay float32; no: float32 throughout; auto: bf16 where that is faster."""

    auto = "auto"
    bf16 = "bf16"
    no = "no"

    def bfloat16(self, device: str) -> bool:
        """Whether to train in bfloat16 autocast on a device of this type."""
        return self is Precision.bf16 or (self is Precision.auto and bfloat16_is_fast(device))


class Device(enum.StrEnum):
    """auto: a GPU if there is one (under `accelerate launch` each process has its own)."""

    auto = "auto"
    cpu = "cpu"


class Part(enum.StrEnum):
    """The part that is trained; the others keep their initial weights."""

    all = "all"
    lora = "lora"
    bridge = "bridge"
    refiner = "refiner"


def split_paths(text: str) -> list[str]:
    """`a,b`, `[a, b]` or `"a,b",c` -> paths; a text that is the path of something that exists is that one path."""
    return [text] if os.path.exists(text) else split_list(text)


MAX_BATCH = 2**16
"""Images; random numbers are drawn for a whole batch at once."""


def setting(default: Any, text: str, **metadata: Any) -> Any:
    """A field with its help text; a mutable default is copied."""
    metadata = {"help": text, **metadata}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def settings_from(frozen: type, name: str, texts: Mapping[str, str]) -> Any:
    """The fields of a frozen dataclass as settings (OmegaConf makes frozen ones read-only), with a help text for each."""
    hints = get_type_hints(frozen)
    return make_dataclass(name, [(f.name, hints[f.name], setting(f.default, texts[f.name])) for f in fields(frozen)])


@dataclass
class RunConfig:
    """Settings of every training command."""

    data: list[str] = setting(
        [],
        "images, folders, .tar or .tar.gz shards, separated by commas: `data=a,b` or `data=[a,b]`; quote a path that has "
        "a comma: `data='\"a,b\",c'`",
        parse=split_paths,
    )
    run: str = setting("", "run folder: settings, checkpoint, log, samples and result; a checkpoint there is resumed")
    start: str | None = setting(
        None, "adapter file or its folder (train adapter), or run folder (train encoder), to start from"
    )
    steps: int = setting(100_000, "number of optimizer steps")
    minutes: float | None = setting(None, "time limit; the schedule ends with it")
    batch: int = setting(8, "images per step, over all processes and accumulated parts")
    accumulate: int = setting(1, "number of parts a step is split into, to save memory")
    crop: int = setting(192, "side of the training crops in pixels, a multiple of 64")
    enlarged: float = setting(
        0.0, "share of the crops that are upscaled from a smaller area: smooth, as large images are"
    )
    background: str | None = setting("white", "color behind transparent images; null leaves such images out")
    lr: float = setting(2.5e-4, "peak learning rate")
    warmup: int = setting(200, "warm-up steps to the peak learning rate")
    clip: float = setting(1.0, "gradient clipping: maximum norm")
    ema: float = setting(0.998, "decay of the averaged weights, which are the result")
    seed: int = setting(0, "random seed of crops, qualities, noise and initial weights")
    precision: Precision = setting(
        Precision.auto, "auto, bf16 (autocast) or no (float32); auto: bf16 where that is faster"
    )
    device: Device = setting(Device.auto, "auto or cpu")
    workers: int | None = setting(None, "data loader processes; default: up to 8 on a GPU, else 0")
    samples: str | None = setting(None, "folder of images to show while training (run/samples, TensorBoard)")
    sample_every: int = setting(1000, "steps between sample images")
    save_minutes: float = setting(4.0, "minutes between checkpoints; 0 saves after every step")
    log_every: int = setting(50, "steps between rows of log.jsonl and TensorBoard")
    data_note: str = setting("not stated", "description of the training images, written into the result")
    license: str = setting("unknown", "license of the result, written into it")

    def problems(self) -> list[str]:
        """One line for each value that the types allow and training does not."""
        found = [f"{key}=: not given" for key in ("data", "run") if not getattr(self, key)]
        found += [
            f"{key}=: wanted a path, or null"
            for key in ("start", "samples", "encoder")
            if getattr(self, key, None) == ""
        ]
        positive = ("steps", "batch", "accumulate", "crop", "lr", "clip", "warmup", "sample_every", "log_every")
        found += [f"{key}={getattr(self, key)}: wanted more than 0" for key in positive if not getattr(self, key) > 0]
        found += [
            f"{k}={getattr(self, k)}: wanted a finite number"
            for k in ("lr", "clip", "minutes", "save_minutes")
            if math.isinf(getattr(self, k) or 0)
        ]
        if self.crop % 64:
            found.append(f"crop={self.crop}: wanted a multiple of 64")
        if not 0 <= self.enlarged <= 1:
            found.append(f"enlarged={self.enlarged}: wanted 0 to 1")
        if not 0 <= self.ema < 1:
            found.append(f"ema={self.ema}: wanted 0 <= ema < 1")
        if self.minutes is not None and not self.minutes > 0:
            found.append(f"minutes={self.minutes}: wanted more than 0")
        if not self.save_minutes >= 0:
            found.append(f"save_minutes={self.save_minutes}: wanted 0 or more")
        if self.workers is not None and self.workers < 0:
            found.append(f"workers={self.workers}: wanted 0 or more")
        if not 0 <= self.seed < 2**63:
            found.append(f"seed={self.seed}: wanted 0 to 2**63 - 1")
        if self.batch > MAX_BATCH:
            found.append(f"batch={self.batch}: wanted at most {MAX_BATCH}")
        if self.background is not None:
            try:
                parse_color(self.background)
            except ImageError as error:
                found.append(str(error))
        return found


@dataclass
class BackboneChoice:
    """Which backbone, and where its weights are."""

    name: str = setting("nano_pixel", "backbone, as `priorcodec backbones` lists them; `backbone=NAME` is short for it")
    weights: str | None = setting(
        None, "folder, file, or OWNER/REPO@COMMIT of a mirror; default: the backbone's own source"
    )


@dataclass
class LossWeights:
    """Weights of the adapter's loss terms; 0 leaves a term out altogether."""

    latent: float = setting(0.1, "weight of the squared error of the latent")
    pixel: float = setting(1.0, "weight of the absolute error of the pixels")
    perceptual: float = setting(2.0, "weight of the perceptual distance")
    moments: float = setting(0.1, "weight of the error of the predicted latent mean and standard deviation")
    gradient_difference: float = setting(0.0, "weight of the difference of Sobel gradients")
    periodic_artifact: float = setting(
        20.0, "weight of the error that repeats with a period of 8 or 16 pixels (regular dots)"
    )
    diversity: float = setting(
        0.0, "weight of the difference between two noise draws, falling to 0 at the highest quality"
    )
    adversarial: float = setting(0.0, "weight of the critic's score; 0 trains no critic")


@dataclass
class CriticConfig:
    """The critic has an optimizer and a schedule of its own; it is neither clipped nor averaged with the adapter."""

    lr: float = setting(2e-4, "learning rate of the critic, constant after its warm-up")
    warmup: int = setting(100, "steps until that learning rate")


ADAPTER_HELP = {
    "width": "channels of the bridge on the latent grid",
    "depth": "residual blocks of the bridge on the latent grid",
    "stem_width": "channels of the bridge at half the latent's stride",
    "stem_depth": "residual blocks of the bridge at half the latent's stride",
    "fusion": "channels of the attentive fusion's bottleneck; 0: no fusion",
    "window": "side of the attentive fusion's window, in latent positions",
    "refiner": "channels of the residual refiner in pixels; 0: no refiner",
    "refiner_depth": "residual blocks of the residual refiner",
    "noise_channels": "noise channels of the residual refiner",
    "tokens": "number of conditioning tokens",
    "mapper": "whether the conditioning tokens depend on the file",
    "moments": "whether the latent's mean and standard deviation are predicted, for renormalization",
    "start": "start time (0 to 999) at the lowest and at the highest quality",
    "lora_rank": "LoRA rank of every layer; null: the ranks of the backbone's rules; 0: no LoRA",
}
ENCODER_HELP = {
    "n8": "channels at stride 8",
    "n16": "channels at stride 16",
    "m": "coded channels",
    "m_h": "channels of the hyper-latent",
    "n": "width of the entropy model",
    "depth8": "residual blocks at stride 8",
    "depth16": "residual blocks at stride 16",
    "levels": "number of quality levels",
    "groups": "coded channels of each group, in the order of decoding; they add up to `encoder.m`",
    "certain": "symbols with a table index below this are zero and not coded",
}
AdapterSizes: Any = settings_from(AdapterConfig, "AdapterSizes", ADAPTER_HELP)
EncoderSizes: Any = settings_from(EncoderConfig, "EncoderSizes", ENCODER_HELP)


@dataclass
class AdapterRunConfig(RunConfig):
    """Settings of `priorcodec train adapter`."""

    backbone: BackboneChoice = field(default_factory=BackboneChoice)
    encoder: str | None = setting(None, "encoder weight file; default: the shipped one")
    adapter: AdapterSizes = field(default_factory=AdapterSizes)  # pyright: ignore[reportInvalidTypeForm]
    loss: LossWeights = field(default_factory=LossWeights)
    critic: CriticConfig = field(default_factory=CriticConfig)
    train: Part = setting(Part.all, "part of the adapter that is trained: all, lora, bridge or refiner")
    dtype: Dtype = setting(
        Dtype.float32, "data type of the frozen backbone, float32 or bfloat16, which halves its memory"
    )
    gradient_checkpointing: bool = setting(False, "recompute the backbone's activations, to save memory")
    compile: bool = setting(True, "compile the perceptual networks if there is a C++ compiler")
    tiny: bool = setting(False, "dry run in seconds: the backbone's tiny random model and small defaults for the rest")

    def problems(self) -> list[str]:
        """As of `RunConfig`, with those of the adapter and its losses."""
        found = super().problems()
        if self.dtype is Dtype.float16:
            found.append("dtype=float16: wanted float32 or bfloat16, since gradients are not scaled")
        try:
            self.sizes()
        except AdapterError as error:
            found.append(str(error))
        weights = {f.name: getattr(self.loss, f.name) for f in fields(self.loss)}
        found += [
            f"loss.{key}={value}: wanted 0 or more" for key, value in weights.items() if not 0 <= value < math.inf
        ]
        if not any(weights.values()):
            found.append("loss: every weight is 0, wanted one above")
        found += [f"critic.{k}={v}: wanted more than 0" for k, v in vars(self.critic).items() if not 0 < v < math.inf]
        return found

    def sizes(self) -> AdapterConfig:
        """Raises AdapterError: an impossible size."""
        values = {f.name: getattr(self.adapter, f.name) for f in fields(AdapterConfig)}
        return AdapterConfig(**{**values, "start": tuple(values["start"])})


TINY = {  # defaults of a dry run; the perceptual network takes longer to load than all the rest
    "steps": "10", "batch": "2", "crop": "64", "warmup": "2", "log_every": "1", "sample_every": "5",
    "compile": "false", "precision": "no", "workers": "0", "loss.perceptual": "0.0", "adapter.width": "16", "adapter.depth": "1",
    "adapter.stem_width": "16", "adapter.stem_depth": "1", "adapter.refiner": "16", "adapter.refiner_depth": "1",
}  # fmt: skip


@dataclass
class LambdaConfig:
    """The rate-distortion trade-off; see `core.rd_loss.LambdaSchedule`."""

    lowest: float = setting(LambdaSchedule.lowest, "lambda at quality 0")
    highest: float = setting(LambdaSchedule.highest, "lambda at the highest quality")
    balance: float = setting(
        LambdaSchedule.balance, "emphasis on low rates: level s is weighted by lambda_s ** -balance"
    )


@dataclass
class EncoderRunConfig(RunConfig):
    """Settings of `priorcodec train encoder`."""

    batch: int = setting(8, "images per step, over all processes and accumulated parts")
    crop: int = setting(256, "side of the training crops in pixels, a multiple of 64")
    lr: float = setting(6e-4, "peak learning rate")
    encoder: EncoderSizes = field(default_factory=EncoderSizes)  # pyright: ignore[reportInvalidTypeForm]
    lambdas: LambdaConfig = field(default_factory=LambdaConfig)
    distance: float = setting(
        350.0,
        "weight of the perceptual distance of g_p, where squared error of 8-bit values has 0.3; 0 trains g_p for squared "
        "error alone",
    )
    counted: int = setting(64, "training crops whose symbols the entropy tables are fitted to at the end")

    def problems(self) -> list[str]:
        """As of `RunConfig`, with those of the encoder and its schedule."""
        found = super().problems()
        found += [f"encoder.{problem}" for problem in encoder_problems(self.shape())]
        if not 0 <= self.distance < math.inf:
            found.append(f"distance={self.distance}: wanted 0 or more")
        if self.batch < 2:
            found.append(f"batch={self.batch}: wanted 2 or more, since every other image trains g_p")
        if self.counted < 1:
            found.append(f"counted={self.counted}: wanted 1 or more")
        if not 0 < self.lambdas.lowest <= self.lambdas.highest < math.inf:
            got = f"lambdas.lowest={self.lambdas.lowest}, lambdas.highest={self.lambdas.highest}"
            found.append(f"{got}: wanted 0 < lowest <= highest")
        return found

    def shape(self) -> EncoderConfig:
        """The encoder's widths."""
        values = {f.name: getattr(self.encoder, f.name) for f in fields(EncoderConfig)}
        return EncoderConfig(**{**values, "groups": tuple(values["groups"])})
