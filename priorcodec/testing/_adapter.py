"""Tier 1, the adapter: it goes in without a trace, learns, comes out without a trace, and decodes from bytes alone."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.core.codec import Codec
from priorcodec.core.errors import AdapterError
from priorcodec.core.image import io as image_io
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.testing._run import CheckError, Subject, require, require_equal, require_shape

CONFIG = AdapterConfig(
    width=8, depth=1, stem_width=8, stem_depth=1, fusion=8, window=4, refiner=8, refiner_depth=2, mapper=True
)
M, LEVELS, ENCODER = 6, 4, 0x0DDBA11
STEPS = 4


def check_fresh_adapter(subject: Subject) -> None:
    """A fresh adapter changes not one bit of the denoiser's answer, called directly or with its fusion at work."""
    backbone, x = subject.tiny(), subject.inputs()
    before = _answer(backbone, x)
    adapter = _attached(subject, backbone)
    require_equal("predict() with a fresh adapter", _answer(backbone, x), before)
    answers: list[tuple[tuple[Any, ...], Tensor]] = []
    predict = backbone.predict

    def listening(*args: Any) -> Tensor:
        answers.append((args, predict(*args)))
        return answers[-1][1]

    object.__setattr__(backbone, "predict", listening)
    with torch.no_grad():
        adapter(*_features())
        for args, answer in answers:
            require_equal("predict() with a fresh adapter's fusion", answer, predict(*args))
        features = _features()
        z = adapter(*features).z
        x = adapter.to_pixels(z, *features[1:])
        require_equal("to_pixels() with a fresh adapter", x, backbone.to_pixels(z).float())


def check_only_adapter_trains(subject: Subject) -> None:
    """Training moves the adapter and leaves every weight of the backbone as it was."""
    run = _trained(subject)
    require(
        not run.free,
        f"{len(run.free)} weights of the denoiser get a gradient, first {run.free[:1]}; call .requires_grad_(False)",
    )
    for name, value in run.weights_after.items():
        require_equal(f"weight {name} after training", value, run.weights[name])


def check_adapter_learns(subject: Subject) -> None:
    """After four steps every weight of the adapter has had a gradient: no LoRA sits where nothing flows."""
    idle = _trained(subject).idle
    require(not idle, f"{len(idle)} weights never get a gradient, first {idle[:1]}: its module is not used")


def check_eject_restores(subject: Subject) -> None:
    """After use and eject the denoiser is what it was: modules, weights, hooks, answers."""
    run = _trained(subject)
    require(run.tree_after == run.tree, "modules or hooks are left behind after eject")
    require(run.weights_after.keys() == run.weights.keys(), "weights are left behind after eject")
    for name, value in run.weights_after.items():
        require_equal(f"weight {name} after eject", value, run.weights[name])
    require_equal("predict() after eject", run.answer_after, run.answer)


def check_adapter_round_trip(subject: Subject) -> None:
    """A trained adapter saved, and loaded onto a newly built backbone, gives the same latent."""
    run = _trained(subject)
    adapter_file.check(run.file, subject.spec, encoder_id=ENCODER)
    again = _attached(subject, subject.tiny())
    adapter_file.load(run.file, again)
    with torch.no_grad():
        require_equal("the latent after save and load", again(*_features()).z, run.z)


def check_wrong_partner_refused(subject: Subject) -> None:
    """Another backbone, another revision and another encoder refuse this one's adapter in one line."""
    file = _trained(subject).file
    other = "f" * 40 if subject.spec.revision != "f" * 40 else "e" * 40
    for spec, encoder in (
        (replace(subject.spec, name="another"), ENCODER),
        (replace(subject.spec, hub_revision=other, sha256=""), ENCODER),
        (subject.spec, ENCODER + 1),
    ):
        try:
            adapter_file.check(file, spec, encoder_id=encoder)
        except AdapterError as error:
            require("\n" not in str(error), "the refusal has several lines, wanted one")
        else:
            raise CheckError(f"the adapter was taken by {spec.name} at {spec.revision[:8]}, encoder {encoder:08x}")


def check_decodes_from_bytes(subject: Subject) -> None:
    """A file's bytes are enough: the true size comes back, twice the same, and to_latents() is never called."""
    codec, pixels = _codec(), _pixels(71, 99)
    data = codec.encode(pixels, LEVELS - 1).data
    backbone = subject.tiny()
    object.__setattr__(backbone, "to_latents", _forbidden)
    adapter = _attached(subject, backbone)
    first, second = (_decode(adapter, codec, data) for _ in range(2))
    require_shape("the decoded image", first, (71, 99, 3))
    require_equal("the second decoding of one file", second, first)


@torch.no_grad()
def check_file_ignores_backbone(subject: Subject) -> None:
    """The encoder writes the same bytes before and after the backbone is built and used."""
    codec, pixels = _codec(), _pixels(64, 64)
    before = codec.encode(pixels, LEVELS - 1).data
    backbone = subject.tiny()
    backbone.to_pixels(backbone.predict(**subject.inputs()))
    after = codec.encode(pixels, LEVELS - 1).data
    require(after == before, "the encoder writes another file once this backbone is built: it changes global state")


@dataclass(frozen=True, kw_only=True)
class _Run:
    """State before and after an adapter was attached to the tiny model, trained, saved and ejected.

    Attributes:
        weights: Weights of the denoiser by name, before.
        weights_after: The same, afterwards.
        tree: Modules of the denoiser and their hooks, before.
        tree_after: The same, afterwards.
        answer: Output of `predict`, before.
        answer_after: Output for the same input, afterwards.
        idle: Weights of the adapter that never had a gradient.
        free: Weights of the denoiser that had one.
        z: The trained adapter's latent.
        file: The saved adapter, read again.
    """

    weights: dict[str, Tensor]
    weights_after: dict[str, Tensor]
    tree: list[tuple[str, type, int]]
    tree_after: list[tuple[str, type, int]]
    answer: Tensor
    answer_after: Tensor
    idle: list[str]
    free: list[str]
    z: Tensor
    file: Any


def _trained(subject: Subject) -> _Run:
    """Training takes most of the time of all checks, so five of them share one run."""
    return subject.once("training an adapter", lambda: _train_once(subject))


def _train_once(subject: Subject) -> _Run:
    backbone, x = subject.tiny(), subject.inputs()
    weights, tree, answer = _weights(backbone), _tree(backbone), _answer(backbone, x)
    adapter = _attached(subject, backbone)
    idle = _train(adapter)
    free = [name for name, p in backbone.module.named_parameters() if p.grad is not None and ".lora_" not in name]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "adapter.safetensors"
        adapter_file.save(adapter, path, encoder_id=ENCODER, metadata={}, dtype=torch.float32)
        file = adapter_file.read(path)
        z = adapter(*_features()).z
    adapter.eject()
    return _Run(
        weights=weights,
        weights_after=_weights(backbone),
        tree=tree,
        tree_after=_tree(backbone),
        answer=answer,
        answer_after=_answer(backbone, x),
        idle=idle,
        free=free,
        z=z,
        file=file,
    )


def _forbidden(x: Tensor) -> Tensor:
    raise AssertionError("to_latents() is called while decoding; a decoder has no image to encode")


def _attached(subject: Subject, backbone: Any) -> Adapter:
    """A seeded fresh adapter, in the backbone. A spec that no adapter fits fails one check, not all of this module."""

    def attach() -> Adapter:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            adapter = Adapter(subject.spec, CONFIG, m=M, levels=LEVELS, tiny=True)
            adapter.inject(backbone)
        return adapter

    return subject.attempt("attaching an adapter", attach)


def _features() -> tuple[Tensor, Tensor, Tensor]:
    """y_hat, qualities and preview. Not square: at stride 64 there are two positions, and attention over one learns nothing."""
    g = torch.Generator().manual_seed(11)
    y_hat, preview = torch.randn(2, M, 4, 8, generator=g), torch.rand(2, 3, 64, 128, generator=g) * 2 - 1
    return y_hat, torch.tensor([0.5, 2.0]), preview


def _train(adapter: Adapter) -> list[str]:
    """A few steps as in training; names of the weights that never got a gradient.

    Several factors start at zero (LoRA's second one, two in a row in the bridge, the pooled vector), and what stands
    before a zero learns one step later: hence four steps.
    """
    names, features = dict(adapter.named_parameters()) | adapter.lora, _features()
    idle, optimizer = set(names), torch.optim.SGD(adapter.trainable(), lr=0.1)
    noise = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        out = adapter(*features)
        assert out.mean is not None and out.std is not None  # CONFIG asks for them
        noise_sample = torch.randn(2, *adapter.noise_shape(64, 128), generator=noise)
        x = adapter.to_pixels(out.z, *features[1:], noise_sample)
        torch.stack([(part - 1).square().mean() for part in (x, out.z, out.mean, out.std)]).sum().backward()
        for name, weight in names.items():
            if weight.grad is not None and bool(weight.grad.any()):
                idle.discard(name)
        optimizer.step()
    return sorted(idle)


@torch.no_grad()
def _answer(backbone: Any, x: dict[str, Any]) -> Tensor:
    return backbone.predict(**x)


def _tree(backbone: Any) -> list[tuple[str, type, int]]:
    return [
        (name, type(m), len(m._forward_hooks) + len(m._forward_pre_hooks))
        for name, m in backbone.module.named_modules()
    ]


def _weights(backbone: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in backbone.module.state_dict().items()}


@functools.cache
def _codec() -> Codec:
    """A small encoder with random weights: what the checks ask of files does not depend on training."""
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = EncoderConfig(
            n8=16, n16=16, m=M, groups=(M // 2, M - M // 2), m_h=4, n=16, depth8=1, depth16=1, levels=LEVELS
        )
        model = ImageEncoder(config)
        save_encoder(model, Path(folder) / "encoder.safetensors", {})
        return Codec(Path(folder) / "encoder.safetensors")


def _pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.inference_mode()
def _decode(adapter: Adapter, codec: Codec, data: bytes) -> Tensor:
    decoded = codec.decode(data)
    quality = torch.tensor([decoded.quality])
    preview = codec.preview_tensor(decoded, perceptual=True)
    out = adapter(decoded.y_hat, quality, preview)
    x = image_io.crop(adapter.to_pixels(out.z, quality, preview), decoded.height, decoded.width)
    return torch.from_numpy(image_io.to_pixels(x))
