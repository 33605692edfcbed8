"""Stage 2: train one backbone's adapter; encoder and backbone stay as they are, bit for bit.

    x --encoder (frozen)--> y_hat, perceptual preview --adapter + backbone.predict--> z --adapter.finish--> x_hat
        latent: z against to_latents(x)        moments: the predicted mean and std against those of to_latents(x)
        pixel, perceptual, gradient_difference, periodic_artifact: x_hat against x
        diversity: x_hat against another draw of its noise        adversarial: the critic's score of x_hat
Gradients pass through the frozen denoiser and autoencoder. After "Generative Image Coding with Diffusion Prior"
(arXiv 2509.13768) and StableCodec (arXiv 2506.21977).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from priorcodec.adapters import card, hub
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.backbones.diffusion import seeded_noise
from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core import shipped
from priorcodec.core.exact_reader import encoder_id
from priorcodec.core.image import io as image_io
from priorcodec.core.transforms import ImageEncoder
from priorcodec.core.weights import load_simulation
from priorcodec.training import losses, sources, words
from priorcodec.training.critic import Critic, CriticTrainer
from priorcodec.training.frozen import assert_unchanged, build_frozen, checkpoint_gradients, fingerprint, modules
from priorcodec.training.perceptual import Look, PerceptualDistance
from priorcodec.training.run import Run, StepBatch, description
from priorcodec.training.settings import AdapterRunConfig, LossWeights, Part
from priorcodec.training.warm_start import warm_start

if TYPE_CHECKING:
    from priorcodec.registry import Registry

ON_IMAGES = [f.name for f in fields(LossWeights) if f.name not in ("latent", "moments")]  # terms that need x_hat
CHANNELS_LAST: Any = {"memory_format": torch.channels_last}


def train_adapter(text: Sequence[str]) -> Path | None:
    """Train the adapter of one backbone.

    Args:
        text: `key=value` words of the command line.

    Returns:
        Path of the adapter file; None in all processes but the first.

    Raises:
        ConfigError: wrong settings, or a run folder that holds other files.
        WeightsError, AdapterError: weights or an adapter that it starts from are missing or do not fit.
        TrainingError: see `train`.
    """
    from priorcodec.registry import open_registry

    registry = open_registry()
    config = words.from_words(AdapterRunConfig, text, backbones=list(registry.specs()))
    spec = registry.spec(config.backbone.name)
    sources.require(config.data)  # before gigabytes are downloaded
    card.check_free(Path(config.run))  # not after hours of training
    weights = None if config.tiny else registry.weights(spec, config.backbone.weights)
    encoder = Path(config.encoder) if config.encoder else shipped.ENCODER
    with Run(config, result=hub.file_name(spec.name)) as run:
        return train(run, config, spec, weights, encoder, registry)


def train(
    run: Run,
    config: AdapterRunConfig,
    spec: BackboneSpec,
    weights: Path | None,
    encoder_file: Path,
    registry: Registry,
) -> Path | None:
    """Train and write RUN/NAME.adapter.safetensors with its card.

    Args:
        run: the surroundings, entered.
        config: settings.
        spec: the backbone.
        weights: of the backbone, as `spec.build` takes them.
        encoder_file: weights of the encoder.
        registry: builds the backbone, and knows what the file given as `start` was made for.

    Returns:
        Path of the adapter file; None in all processes but the first.

    Raises:
        BackboneError: the backbone's plugin could not build it.
        TrainingError: no data, a loss that is not finite, a frozen part that changed, or a damaged run folder.
    """
    encoder = load_simulation(encoder_file).to(run.device, **CHANNELS_LAST)
    identity = encoder_id(encoder_file.read_bytes())
    backbone = build_frozen(spec, weights, registry, dtype=config.dtype, tiny=config.tiny, device=run.device)
    before = {"encoder": fingerprint([encoder]), "backbone": fingerprint(modules(backbone))}

    torch.manual_seed(config.seed)
    adapter = Adapter(spec, config.sizes(), m=encoder.config.m, levels=encoder.config.levels, tiny=config.tiny)
    adapter.inject(backbone)
    adapter.to(run.device, **CHANNELS_LAST)
    for parameter in adapter.lora.values():
        parameter.data = parameter.data.to(run.device, torch.float32)
    if config.start and not run.resumes:
        file = adapter_file.read(hub.in_folder(Path(config.start)))
        other = registry.specs().get(file.metadata.get("backbone", ""))
        same_latent = other is not None and other.latent == spec.latent
        run.log(warm_start(adapter, file, same_latent=same_latent, encoder=identity))
    if config.gradient_checkpointing and not checkpoint_gradients(backbone):
        run.log(f"{spec.name} has no gradient checkpointing: training without")
    _choose(adapter, config.train)
    count = sum(p.numel() for p in adapter.trainable() if p.requires_grad)
    total = sum(p.numel() for p in backbone.module.parameters()) - sum(p.numel() for p in adapter.lora.values())
    run.log(f"training {count:,} parameters, {count / total:.1%} of {spec.name}'s {total:,}")

    critic = None
    if config.loss.adversarial:
        network = Critic().to(run.device, **CHANNELS_LAST)
        critic = CriticTrainer(network, lr=config.critic.lr, warmup=config.critic.warmup, accelerator=run.accelerator)
    objective = Objective(
        adapter,
        encoder,
        config.loss,
        distance=_distance(config, run),
        critic=critic,
        bf16=run.bf16,
    )
    loop = run.loop(objective.to(run.device), identity=before, critic=critic)
    batches = run.batches(loop, encoder.config.levels)
    with run.monitor(loop, objective.show) as monitor:
        loop.run(lambda step: objective.step(loop.wrapped, next(batches)), after=monitor)
        loop.swap_average()
        monitor.save_samples()
    after = {"encoder": fingerprint([encoder]), "backbone": fingerprint(modules(backbone))}
    assert_unchanged(before, after)
    if not run.main:
        return None
    target = run.folder / hub.file_name(spec.name)
    metadata = description(config, loop) | ({"tiny": "true"} if config.tiny else {})
    adapter_file.save(adapter, target, encoder_id=identity, metadata=metadata)
    card.write(target)
    return target


class Objective(nn.Module):
    """Batch -> loss. Its parameters are those trained: the adapter and its LoRA inside the backbone.

    Args:
        adapter: attached to its backbone.
        encoder: frozen simulation of the encoder.
        weights: of the loss terms.
        distance: frozen perceptual distance.
        critic: for the adversarial term; trained by an optimizer of its own.
        bf16: whether the encoder's transforms may run in bfloat16.
    """

    def __init__(
        self, adapter: Adapter, encoder: ImageEncoder, weights: LossWeights, *,
        distance: PerceptualDistance | None, critic: CriticTrainer | None = None, bf16: bool,
    ):  # fmt: skip
        super().__init__()
        self.adapter, self.weights, self.bf16 = adapter, weights, bf16
        self.lora = nn.ParameterList(adapter.lora.values())
        self._others = (encoder, distance, critic)  # in a tuple: no submodules, neither trained nor saved with this one

    def step(self, wrapped: Any, batch: StepBatch) -> tuple[Tensor, dict[str, float]]:
        """Loss and scalars to log of one batch; the critic's gradient is taken here. wrapped: this module in its trainer."""
        height, width = batch.images.shape[-2:]
        distance, rng = self._others[1], random.Random(batch.seed())
        look = None if distance is None else distance.draw(rng, (height, width))
        channels, rows, columns = self.adapter.noise_shape(height, width)
        noise = batch.normal(2 * channels, rows, columns)
        total, terms, pair = wrapped(batch.images, batch.quality, look, noise)
        critic = self._others[2]
        if critic is not None:
            terms = terms | {"critic": critic.backward(*pair)}
        return total, {"loss": total.item()} | {key: term.item() for key, term in terms.items()}

    def forward(
        self, images: Tensor, quality: Tensor, look: Look | None, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]:
        """The weighted sum of the loss terms.

        Args:
            images: uint8 (b, 3, h, w).
            quality: in levels, (b,).
            look: of the perceptual distance.
            noise: two draws for the residual refiner side by side, (b, 2 * noise channels, h/4, w/4).

        Returns:
            loss, its terms, and the pair (x_hat, x) for the critic, empty if no term looks at pixels.
        """
        backbone, weights = self.adapter.attached, self.weights
        x = image_io.to_range(images).contiguous(memory_format=torch.channels_last)
        y_hat, preview = self.read(x, quality)
        with torch.no_grad():
            target = backbone.to_latents(x).float()
        estimate = self.adapter(y_hat, quality, preview)
        terms = dict[str, Tensor]()
        if weights.latent:
            terms["latent"] = (estimate.z.float() - target).square().mean()
        if weights.moments and estimate.mean is not None and estimate.std is not None:
            scale = self.adapter.bridge.std.flatten()  # pyright: ignore
            terms["moments"] = losses.moments(estimate.mean, estimate.std, target, scale)  # pyright: ignore
        pair: tuple[Tensor, ...] = ()
        if any(getattr(weights, name) for name in ON_IMAGES):
            decoded = backbone.to_pixels(estimate.z).float()
            first, second = noise.chunk(2, 1)
            x_hat = self.adapter.finish(decoded, quality, preview, first)
            pair = (x_hat.detach(), x)
            terms |= self._image_terms(x_hat, x, look)
            if weights.diversity:
                other = self.adapter.finish(decoded, quality, preview, second)
                terms["diversity"] = losses.diversity(x_hat, other, 1 - quality / (self.adapter.levels - 1))
        total = x.new_zeros(()) + sum(getattr(weights, name) * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}, pair

    def _image_terms(self, x_hat: Tensor, x: Tensor, look: Look | None) -> dict[str, Tensor]:
        _, distance, critic = self._others
        weights, terms = self.weights, dict[str, Tensor]()
        if weights.pixel:
            terms["pixel"] = (x_hat - x).abs().mean()
        if weights.perceptual and distance is not None:
            assert look is not None  # `step` draws it
            terms["perceptual"] = distance(losses.with_fine_chroma(x_hat, x), x, look).mean()
        for name in ("gradient_difference", "periodic_artifact"):
            if getattr(weights, name):
                terms[name] = getattr(losses, name)(x_hat, x)
        if weights.adversarial and critic is not None:
            terms["adversarial"] = critic.critic.score(x_hat)
        return terms

    def read(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, 3, h, w) -> y_hat and perceptual preview as a decoder has them; the integer network is simulated in float32."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            encoder = self._others[0]
            y_hat = encoder.code(x, quality, autocast=self.bf16).y_hat
            return y_hat, encoder.synthesize(y_hat, quality, perceptual=True, autocast=self.bf16)

    def show(self, x: Tensor) -> list[Tensor]:
        """x (1, 3, h, w) -> preview and decode at the middle quality."""
        quality = torch.full((1,), (self.adapter.levels - 1) / 2, device=x.device)
        y_hat, preview = self.read(x, quality)
        estimate = self.adapter(y_hat, quality, preview)
        noise = seeded_noise([0], (1, *self.adapter.noise_shape(*x.shape[-2:])), x.device, x.dtype)(0)
        return [preview, self.adapter.to_pixels(estimate.z, quality, preview, noise)]


def _distance(config: AdapterRunConfig, run: Run) -> PerceptualDistance | None:
    if not config.loss.perceptual:
        return None
    distance = PerceptualDistance().to(run.device, **CHANNELS_LAST)
    if config.compile and any(map(shutil.which, ("c++", "g++", "clang++"))):
        for network in distance.networks:
            network.compile()
    return distance


def _choose(adapter: Adapter, part: Part) -> None:
    chosen: Sequence[nn.Parameter] = {
        Part.all: adapter.trainable(),
        Part.lora: list(adapter.lora.values()),
        Part.bridge: list(adapter.bridge.parameters()),
        Part.refiner: [] if adapter.refiner is None else list(adapter.refiner.parameters()),
    }[part]
    ids = {id(p) for p in chosen}
    for parameter in adapter.trainable():
        parameter.requires_grad_(id(parameter) in ids)
