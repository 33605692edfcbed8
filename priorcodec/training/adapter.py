"""Stage 2: train one backbone's adapter; encoder and backbone stay as they are, bit for bit.

    x --encoder (frozen)--> y_hat, preview --adapter + backbone.predict--> z --adapter.to_pixels--> x_hat
        latent: z against to_latents(x)    pixel, perceptual, structure, grid, spectrum, adversarial: x_hat against x
        statistics: the adapter's predicted mean and std against those of to_latents(x)
        spread: x_hat against another draw of its noise. `pixel` alone is least with no noise at all; less half the spread it is
        the energy score (Gneiting & Raftery, JASA 2007), least where images differ as much as what the file leaves open.
Gradients pass through the frozen denoiser and autoencoder. After "Generative Image Coding with Diffusion Prior"
(arXiv 2509.13768) and StableCodec (arXiv 2506.21977).
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from priorcodec.adapters import card
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.bridge import LatentBridge
from priorcodec.adapters.config import AdapterConfig
from priorcodec.adapters.file import AdapterFile
from priorcodec.backbones.diffusion import seeded_noise
from priorcodec.backbones.spec import BackboneSpec
from priorcodec.config import BackboneConfig, Dtype
from priorcodec.core.errors import AdapterError
from priorcodec.core.transforms import ImageEncoder
from priorcodec.core.weights import encoder_id, load_simulation
from priorcodec.training import losses
from priorcodec.training import run as runs
from priorcodec.training.data import to_signed
from priorcodec.training.run import setting

MEANING = {
    "width": "channels of the bridge on the latent grid",
    "depth": "blocks of the bridge on the latent grid",
    "fine_width": "channels of the bridge at half the latent's stride",
    "fine_depth": "blocks of the bridge there",
    "fusion": "channels of the attentive fusion's bottleneck; 0: no fusion",
    "window": "of its attention, in positions",
    "detail": "channels of what adds the preview's detail to the image; 0: nothing",
    "detail_depth": "blocks of it",
    "grain": "channels of noise that it makes texture of",
    "tokens": "vectors that stand where text stood",
    "mapper": "whether they depend on the file",
    "statistics": "whether the latent's mean and std are predicted, for renormalization",
    "start": "pseudo-timestep at the lowest and the highest quality",
    "lora_rank": "null: the rules' own ranks; one rank for all; 0: no LoRA",
}
Shape: Any = runs.mutable(AdapterConfig, "Shape", MEANING)


class Part(enum.StrEnum):
    """What is trained; the rest of the adapter stays as it starts."""

    all = "all"
    lora = "lora"
    bridge = "bridge"
    detail = "detail"


class Distance(enum.StrEnum):
    auto = "auto"
    lpips = "lpips"
    stlpips = "stlpips"


@dataclass
class LossWeights:
    """Weights of the loss terms, those of the shipped adapters; 0 leaves a term out altogether."""

    latent: float = setting(0.1, "weight of the squared error of the latent")
    pixel: float = setting(1.0, "weight of the absolute error of the pixels")
    perceptual: float = setting(2.0, "weight of the perceptual distance")
    statistics: float = setting(0.1, "weight of the error of the predicted latent statistics")
    structure: float = setting(1.0, "weight of the difference of Sobel gradients")
    grid: float = setting(4.0, "weight of the error that repeats every 16 pixels or fewer: against regular dots")
    spectrum: float = setting(1.0, "weight of the difference of local power spectra: for texture of the right strength")
    spread: float = setting(
        0.5, "weight of how far two draws of the noise differ, at the lowest quality; at the highest none"
    )
    adversarial: float = setting(0.0, "weight of the patch critic's opinion")


# What looks at the decoded image.
IMAGE = [f.name for f in fields(LossWeights) if f.name not in ("latent", "statistics")]


@dataclass
class AdapterRunConfig(runs.RunConfig):
    """Settings of `priorcodec train adapter`."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    encoder: str | None = setting(None, "another encoder's weight file than the shipped one")
    adapter: Shape = field(default_factory=Shape)  # pyright: ignore[reportInvalidTypeForm]
    loss: LossWeights = field(default_factory=LossWeights)
    train: Part = setting(Part.all, "all, lora, bridge or detail: what is trained")
    perceptual: Distance = setting(Distance.auto, "auto, lpips or stlpips; auto: LPIPS if its weights are here")
    window: int = setting(
        64, "side of the random window the perceptual distance looks at, it costs most of a small step"
    )
    dtype: Dtype = setting(Dtype.float32, "of the frozen backbone; bfloat16 halves its memory")
    gradient_checkpointing: bool = setting(False, "compute the backbone's activations twice, for memory")
    compile: bool = setting(True, "compile the perceptual network where a C++ compiler is")
    tiny: bool = setting(False, "the backbone's tiny random model, for dry runs")

    def problems(self) -> list[str]:
        found = super().problems()
        try:
            self.shape()
        except AdapterError as error:
            found.append(str(error))
        weights = {f.name: getattr(self.loss, f.name) for f in fields(self.loss)}
        found += [f"loss.{key}={value}: wanted 0 or more" for key, value in weights.items() if not value >= 0]
        if not any(weights.values()):
            found.append("loss: every weight is 0, wanted one above")
        if not 16 <= self.window <= self.crop:
            found.append(f"window={self.window}: wanted 16 to crop={self.crop}")
        return found

    def shape(self) -> AdapterConfig:
        values = {f.name: getattr(self.adapter, f.name) for f in fields(AdapterConfig)}
        return AdapterConfig(**{**values, "start": tuple(values["start"])})


class Objective(nn.Module):
    """Batch -> loss. Its parameters are what is trained: the adapter, its LoRA inside the backbone, and the critic's.

    encoder, distance: frozen, therefore no submodules; bf16: whether the encoder's transforms may run in bfloat16.
    """

    def __init__(
        self, adapter: Adapter, encoder: ImageEncoder, weights: LossWeights, *, distance: Any, window: int, bf16: bool
    ):
        super().__init__()
        self.adapter, self.weights, self.window, self.bf16 = adapter, weights, window, bf16
        self.lora = nn.ParameterList(adapter.lora.values())
        self.critic = losses.Critic() if weights.adversarial else None
        self._frozen = (encoder, distance)

    def read(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, 3, h, w) -> y_hat and preview as a decoder has them; the integer network is simulated in float32."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            out = self._frozen[0](x, quality, autocast=self.bf16)
        return out.y_hat, out.x_hat

    def forward(
        self, images: Tensor, quality: Tensor, corner: tuple[int, int], noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """images uint8 (b, 3, h, w), quality (b,), corner of the perceptual window, noise for detail, two draws
        side by side (b, 2 grain, h/4, w/4) -> loss and its terms."""
        backbone, weights = self.adapter.attached, self.weights
        x = to_signed(images).contiguous(memory_format=torch.channels_last)
        y_hat, preview = self.read(x, quality)
        with torch.no_grad():
            target = backbone.to_latents(x).float()
        estimate = self.adapter(y_hat, quality, preview)
        total, terms = x.new_zeros(()), dict[str, Tensor]()

        def add(name: str, value: Tensor) -> None:
            nonlocal total
            total = total + getattr(weights, name) * value
            terms[name] = value.detach()

        if weights.latent:
            add("latent", (estimate.z.float() - target).square().mean())
        if weights.statistics and estimate.mean is not None:
            add("statistics", statistics_error(estimate.mean, estimate.std, target, self.adapter.bridge.std))
        if any(getattr(weights, name) for name in IMAGE):
            decoded = backbone.to_pixels(estimate.z).float()
            draw, second = noise.chunk(2, 1)
            x_hat = self.adapter.finish(decoded, quality, preview, draw)
            i, j = corner
            window = (..., slice(i, i + self.window), slice(j, j + self.window))
            if weights.pixel:
                add("pixel", (x_hat - x).abs().mean())
            if weights.perceptual:
                add("perceptual", self._frozen[1](x_hat[window].contiguous(), x[window].contiguous()).mean())
            if weights.structure:
                add("structure", losses.structure(x_hat, x))
            if weights.grid:
                add("grid", losses.grid(x_hat, x))
            if weights.spectrum:
                add("spectrum", losses.spectrum(x_hat, x))
            if weights.spread:
                other = self.adapter.finish(decoded, quality, preview, second)
                known = (quality / (self.adapter.levels - 1)).view(-1, 1, 1, 1)
                add("spread", -((1 - known) * (x_hat - other).abs()).mean())
            if self.critic is not None:
                decoder, critic = self.critic.losses(x_hat, x)
                add("adversarial", decoder)
                total = total + critic
                terms["critic"] = critic.detach()
        return total, terms

    def call(self, wrapped: Any, draw: runs.Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """One step's slice through `forward`; wrapped: this module, as the trainer wraps it."""
        height, width = draw.images.shape[-2:]
        i, j = draw.rng.integers((height - self.window + 1, width - self.window + 1)).tolist()
        grain, rows, columns = self.adapter.noise_shape(height, width)
        noise = draw.normal(2 * grain, rows, columns)
        return wrapped(draw.images, draw.quality, (i, j), noise)

    def show(self, x: Tensor) -> list[Tensor]:
        """x (1, 3, h, w) -> preview and decode at the middle quality."""
        quality = torch.full((1,), (self.adapter.levels - 1) / 2, device=x.device)
        y_hat, preview = self.read(x, quality)
        estimate = self.adapter(y_hat, quality, preview)
        noise = seeded_noise([0], (1, *self.adapter.noise_shape(*x.shape[-2:])), x.device, x.dtype)(0)
        return [preview, self.adapter.to_pixels(estimate.z, quality, preview, noise)]


def statistics_error(mean: Tensor, std: Tensor | None, target: Tensor, scale: Any) -> Tensor:
    """Squared error of predicted mean and std (b, c) against those of target (b, c, h, w), in units of `scale` (c, 1, 1)."""
    assert std is not None
    wanted = (target.mean((2, 3)), target.std((2, 3), correction=0))
    errors = [
        ((got.float() - want) / scale.flatten()).square().mean() for got, want in zip((mean, std), wanted, strict=True)
    ]
    return errors[0] + errors[1]


@torch.no_grad()
def start_as_encoder(bridge: LatentBridge, backbone: Any, spec: BackboneSpec) -> bool:
    """Let the bridge begin as the backbone's own encoder, applied to the preview, where both are laid out alike.

    So it is for our nano backbones: unshuffle, conv, blocks, unshuffle, conv, blocks, conv. Returns whether it was done.
    """
    layers = getattr(getattr(backbone, "vae", None), "encoder", None)
    if not isinstance(layers, nn.Sequential):
        return False
    mine = [bridge.head[1], *bridge.fine, bridge.down[1], *bridge.coarse, bridge.tail]
    theirs = [layer for layer in layers if any(True for _ in layer.parameters())]
    shapes = [[{name: v.shape for name, v in layer.state_dict().items()} for layer in side] for side in (mine, theirs)]
    if shapes[0] != shapes[1]:
        return False
    for own, layer in zip(mine, theirs, strict=True):
        own.load_state_dict(layer.state_dict())
    std, mean, latent = bridge.std.flatten(), bridge.mean.flatten(), spec.latent  # pyright: ignore
    bridge.tail.weight.mul_((latent.scale / std)[:, None, None, None])
    bridge.tail.bias.sub_(latent.shift).mul_(latent.scale).sub_(mean).div_(std)  # pyright: ignore
    return True


FRESH = ("fusion.", "tokens.base", "tokens.pooled_base", "tokens.out.", "tokens.pooled_out.")  # what knows the backbone
OUTPUT = ("bridge.tail.", "statistics.")  # what knows its latent
CODED = ("bridge.side.", "tokens.key_value.")  # what knows the encoder's channels


@torch.no_grad()
def warm_start(adapter: Adapter, file: AdapterFile, *, same_latent: bool, encoder: int) -> str:
    """Copy from another adapter's file what still means the same: everything for the same backbone; for another one the
    trunk, pyramid and token mapper (and, same_latent, the output layers) whose names and shapes agree.

    Returns one line that says how many tensors were taken. Raises AdapterError: none.
    """
    same = (file.metadata.get("backbone"), file.metadata.get("revision")) == (adapter.spec.name, adapter.spec.revision)
    fresh = (() if same else FRESH) + (() if same or same_latent else OUTPUT)
    fresh += () if file.metadata.get("encoder") == f"{encoder:08x}" else CODED
    own = {f"own.{name}": value for name, value in adapter.state_dict(keep_vars=True).items()}
    all_of_it = own | {f"lora.{name}": value for name, value in adapter.lora.items()}
    taken = 0
    for key, value in all_of_it.items():
        part, _, name = key.partition(".")
        wanted = same if part == "lora" else not name.startswith(fresh)
        if wanted and key in file.tensors and file.tensors[key].shape == value.shape:
            value.copy_(file.tensors[key])
            taken += 1
    if not taken:
        raise AdapterError(f"{file.path} shares no tensor with this adapter: give one of the same sizes, or no start=")
    return f"took {taken} of {len(all_of_it)} tensors from {file.path.name} (for {file.metadata.get('backbone')})"


def train(
    config: AdapterRunConfig,
    spec: BackboneSpec,
    weights: Path | None,
    encoder_file: Path,
    *,
    known: Mapping[str, BackboneSpec],
) -> Path | None:
    """Train and write RUN/NAME.adapter.safetensors with its card; its path, in the first process (None in the others).

    weights: of the backbone, as `spec.build` takes them; known: all backbones, to know what a `start` file was made for.
    Raises:
        TrainingError: a loss that is not finite, or a frozen part that changed. ConfigError, AdapterError: see above.
    """
    run = runs.Run(config)
    fast: Any = {"memory_format": torch.channels_last}
    encoder = load_simulation(encoder_file).to(run.device, **fast)
    identity = encoder_id(encoder_file.read_bytes())
    built: Any = spec.build_tiny() if config.tiny else spec.build(weights, dtype=_dtype(config, run))
    backbone: Any = built.to(run.device, **fast) if isinstance(built, nn.Module) else built.to(run.device)
    for module in _modules(backbone):
        module.requires_grad_(False).eval()
    before = {"encoder": runs.fingerprint([encoder]), "backbone": runs.fingerprint(_modules(backbone))}

    torch.manual_seed(config.seed)
    adapter = Adapter(spec, config.shape(), m=encoder.config.m, levels=encoder.config.levels, tiny=config.tiny)
    adapter.inject(backbone)
    adapter.to(run.device, **fast)
    for parameter in adapter.lora.values():
        parameter.data = parameter.data.to(run.device, torch.float32)
    if start_as_encoder(adapter.bridge, backbone, spec):
        run.say("the bridge starts as the encoder of the backbone's autoencoder")
    if config.start and not run.resumes:
        file = adapter_file.read(Path(config.start))
        other = known.get(file.metadata.get("backbone", ""))
        same_latent = other is not None and other.latent == spec.latent
        run.say(warm_start(adapter, file, same_latent=same_latent, encoder=identity))
    if config.gradient_checkpointing and not checkpoint_gradients(backbone):
        run.say(f"{spec.name} has no gradient checkpointing: trained without")

    distance: Any = None
    if config.loss.perceptual:
        distance, name = losses.perceptual(config.perceptual)
        distance = distance.to(run.device, **fast)
        run.say(f"perceptual loss: {name}")
        if config.compile and any(map(shutil.which, ("c++", "g++", "clang++"))):
            distance = torch.compile(distance)
    objective = Objective(adapter, encoder, config.loss, distance=distance, window=config.window, bf16=run.bf16)
    objective.to(run.device)
    _choose(objective, config.train)
    count = sum(p.numel() for p in adapter.trainable() if p.requires_grad)
    total = sum(p.numel() for p in backbone.module.parameters()) - sum(p.numel() for p in adapter.lora.values())
    run.say(f"training {count:,} parameters, {100 * count / total:.1f}% of {spec.name}'s {total:,}")

    loop = run.train(objective, objective.call, levels=encoder.config.levels, identity=before, draw=objective.show)
    after = {"encoder": runs.fingerprint([encoder]), "backbone": runs.fingerprint(_modules(backbone), skip=_is_lora)}
    runs.freeze_check(before, after)
    if not run.main:
        return None
    target = run.folder / f"{spec.name}.adapter.safetensors"
    metadata = runs.description(config, loop) | ({"tiny": "true"} if config.tiny else {})
    adapter_file.save(adapter, target, encoder_id=identity, metadata=metadata)
    card.write(target)
    return target


def _is_lora(name: str) -> bool:
    return ".lora_" in name


def _dtype(config: AdapterRunConfig, run: runs.Run) -> torch.dtype:
    if config.dtype is Dtype.auto:
        return torch.bfloat16 if run.device.type == "cuda" else torch.float32
    return getattr(torch, config.dtype)


def _modules(backbone: Any) -> Sequence[nn.Module]:
    """All modules of a backbone, which need not be a module itself."""
    if isinstance(backbone, nn.Module):
        return [backbone]
    return [value for _, value in sorted(vars(backbone).items()) if isinstance(value, nn.Module)]


def checkpoint_gradients(backbone: Any) -> bool:
    """Where diffusers has it: the denoiser must."""
    for module in (backbone.module, getattr(backbone, "vae", None)):
        enable = getattr(module, "enable_gradient_checkpointing", None)
        if enable is None or not getattr(module, "_supports_gradient_checkpointing", True):
            if module is backbone.module:
                return False
            continue
        enable()
    return True


def _choose(objective: Objective, part: Part) -> None:
    adapter = objective.adapter
    chosen: Iterator[nn.Parameter] | Sequence[nn.Parameter] = {
        Part.all: adapter.trainable(),
        Part.lora: list(adapter.lora.values()),
        Part.bridge: list(adapter.bridge.parameters()),
        Part.detail: [] if adapter.detail is None else list(adapter.detail.parameters()),
    }[part]
    ids = {id(p) for p in chosen}
    for parameter in adapter.trainable():
        parameter.requires_grad_(id(parameter) in ids)
