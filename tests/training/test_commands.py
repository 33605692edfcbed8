"""`priorcodec train adapter`: frozen parts, loss terms, warm start, chosen parts, samples, one-line mistakes."""

import random
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec import AdapterError, BackboneError, TrainingError, cli
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters import hub
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.backbones.builtin import _toy_model, toy
from priorcodec.config import Dtype
from priorcodec.core.weights import load_simulation
from priorcodec.registry import open_registry
from priorcodec.training import adapter as adapter_training
from priorcodec.training import warm_start
from priorcodec.training.adapter import Objective, train_adapter
from priorcodec.training.critic import Critic, CriticTrainer
from priorcodec.training.frozen import build_frozen, fingerprint
from priorcodec.training.perceptual import PerceptualDistance
from priorcodec.training.run import Run
from priorcodec.training.settings import AdapterRunConfig, LossWeights
from priorcodec.training.words import from_words
from tests.training.helpers import SIZES, close, state


class Restless(_toy_model.Toy):
    def to_latents(self, x):
        with torch.no_grad():
            self.module.conv1.weight.add_(1e-6)
        return super().to_latents(x)


class Broken(_toy_model.Toy):
    def to_pixels(self, z):
        return super().to_pixels(z) * torch.inf


def train_on(model, words):
    config = from_words(AdapterRunConfig, words)
    spec = replace(toy.SPEC, build_tiny=lambda: model(toy.WIDTH))
    with Run(config, result=hub.file_name(spec.name)) as run:
        return adapter_training.train(run, config, spec, None, Path(config.encoder), open_registry())


def test_a_backbone_that_changes_is_found_out(words, tmp_path):
    with pytest.raises(TrainingError, match="the backbone changed while training"):
        train_on(Restless, words("run", "steps=2"))
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert train_on(_toy_model.Toy, words("good", "steps=2")) is not None


def test_auto_is_the_type_that_decoding_uses_and_a_failing_plugin_is_named():
    asked = []

    def build(weights, *, dtype):
        asked.append(dtype)
        raise RuntimeError("no such layer")

    for gpu_dtype, device, wanted in (
        ("float32", "cuda", torch.float32),
        ("float16", "xpu", torch.float16),
        ("bfloat16", "cpu", torch.float32),
    ):
        spec = replace(toy.SPEC, gpu_dtype=gpu_dtype, build=build)
        with pytest.raises(BackboneError, match="build of toy raised RuntimeError: no such layer; report it"):
            build_frozen(spec, None, open_registry(), dtype=Dtype.auto, tiny=False, device=torch.device(device))
        assert asked.pop() is wanted


def test_fingerprint_sees_every_bit_and_no_lora():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    before = fingerprint([module])
    assert fingerprint([module]) == before
    module[1].running_mean += 1e-7
    assert fingerprint([module]) != before


def test_a_loss_that_is_not_finite_stops_with_one_line(words):
    with pytest.raises(TrainingError, match="loss is (inf|nan) at step 0.*lower the learning rate"):
        train_on(Broken, words("run", "steps=2"))


def test_the_command_says_it_in_one_line_and_ends_with_2(words, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["priorcodec", "train", "adapter", *words("run", "steps=50", "lr=1e30", "warmup=1")]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2
    assert len(errors) == 1 and "lower the learning rate (lr=) and resume" in errors[0]


@pytest.fixture(scope="module")
def objective(world):
    """objective("pixel") -> gradients of the adapter under that loss term alone."""
    encoder = load_simulation(world / "encoder.safetensors")
    images = [np.asarray(Image.open(p))[:64, :64] for p in sorted((world / "images").iterdir())]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    def gradients(quality=(0.0, 5.5, 11.0), **weights):
        torch.manual_seed(0)
        adapter = Adapter(toy.SPEC, AdapterConfig(**SIZES), m=6, levels=12, tiny=True)
        adapter.inject(toy.build_tiny())
        for fresh in (adapter.bridge.tail, adapter.refiner.tail, adapter.refiner.noise):
            torch.nn.init.normal_(fresh.weight, std=0.1)
        none = dict.fromkeys((f.name for f in fields(LossWeights)), 0.0)
        distance = PerceptualDistance(side=64) if weights.get("perceptual") else None
        look = distance and distance.draw(random.Random(0), (64, 64))
        critic = CriticTrainer(Critic(8), lr=1, warmup=1) if weights.get("adversarial") else None
        made = Objective(
            adapter, encoder, LossWeights(**(none | weights)), distance=distance, critic=critic, bf16=False
        )
        noise_channels, *sides = adapter.noise_shape(64, 64)
        total, terms, _ = made(x, torch.tensor(quality), look, torch.randn(3, 2 * noise_channels, *sides))
        total.backward()
        return {name: p.grad for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}, terms

    return gradients


@pytest.mark.parametrize("term", [f.name for f in fields(LossWeights)])
def test_every_loss_term_is_reported_and_moves_the_adapter(objective, term):
    found, terms = objective(**{term: 1.0})
    assert term in terms
    moved = {name.split(".")[1] for name in found if name.startswith("adapter.")}
    assert moved == {"moments"} if term == "moments" else "bridge" in moved
    assert not any("critic" in name for name in found)
    other, _ = objective(latent=1.0, **({"pixel": 1.0} if term == "latent" else {term: 1.0}))
    latent, _ = objective(latent=1.0)
    assert any(not torch.equal(latent[name], other[name]) for name in latent) or set(latent) != set(other)


def test_two_draws_may_differ_where_the_file_says_little(objective):
    """The diversity is rewarded at the lowest quality, at the highest it is nothing."""
    found, low = objective(quality=(0.0, 0.0, 0.0), diversity=1.0)
    assert low["diversity"] < 0 and "adapter.refiner.noise.weight" in found
    found, high = objective(quality=(11.0, 11.0, 11.0), diversity=1.0)
    assert high["diversity"] == 0 and not found


def test_warm_start_takes_what_still_means_the_same(words, tmp_path, world):
    path = train_adapter(words("toy", "steps=2"))
    file = adapter_file.read(path)
    number = int(file.metadata["encoder"], 16)
    registry = open_registry()

    def fresh(name, **sizes):
        spec = registry.spec(name)
        adapter = Adapter(spec, AdapterConfig(**{**SIZES, **sizes}), m=6, levels=12, tiny=True)
        adapter.inject(spec.build_tiny())
        return adapter

    def taken(adapter, **how):
        before = {name: value.clone() for name, value in adapter.state_dict().items()}
        line = warm_start.warm_start(adapter, file, **{"same_latent": False, "encoder": number, **how})
        return {name for name, value in adapter.state_dict().items() if not torch.equal(value, before[name])}, line

    names, line = taken(fresh("nano_pixel"))
    assert {"bridge.head.1.weight", "bridge.down.1.weight", "pyramid.levels.1.weight", "tokens.queries"} <= names
    assert not any(name.startswith(warm_start.BACKBONE_SPECIFIC + warm_start.LATENT_SPECIFIC) for name in names)
    assert "from toy.adapter.safetensors (for toy)" in line
    assert any(name.startswith("moments.") for name in taken(fresh("toy"))[0])
    other, _ = taken(fresh("nano_pixel"), encoder=number ^ 1)
    assert names - other == {name for name in names if name.startswith(warm_start.ENCODER_SPECIFIC)}
    again = fresh("toy")
    assert f"copied {len(file.tensors)} of {len(file.tensors)} tensors" in taken(again)[1]
    assert all(torch.equal(p.half(), file.tensors[f"lora.{name}"]) for name, p in again.lora.items())
    train_adapter(words("next", "steps=1", f"start={path}"))
    file.tensors["own.tokens.queries"][0] = torch.nan
    with pytest.raises(AdapterError, match="own.tokens.queries holds values that are not finite: give another start="):
        taken(fresh("toy"))


@pytest.mark.parametrize("part", ["lora", "bridge", "refiner"])
def test_only_the_chosen_part_moves(words, tmp_path, part):
    path = train_adapter(words("all", "steps=1"))
    train_adapter(words(part, "steps=3", f"train={part}", f"start={path}"))
    before, after = adapter_file.read(path).tensors, adapter_file.read(tmp_path / part / path.name).tensors
    moved = {name.split(".")[0] if name.startswith("lora") else name.split(".")[1] for name in before
             if not torch.equal(before[name], after[name])}  # fmt: skip
    assert moved == {part}


def test_samples_tensorboard_and_images_in_shards(words, tmp_path, world, caplog):
    import tarfile

    caplog.set_level("INFO")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(world / "images" / "0.png", "0.png")
        tar.add(tmp_path / "bad.png", "bad.png")
    data = f"data={tmp_path / 'a.tar'},{world / 'images' / '1.png'}"
    train_adapter(words("run", "steps=2", data, f"samples={world / 'images'}", "sample_every=1"))
    assert "a.tar/bad.png" in caplog.text and "2 images of 64 pixels and more" in caplog.text
    montage = Image.open(tmp_path / "run" / "samples" / "0000002.png")
    assert montage.size == (3 * 256, 3 * 256)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    # Nothing holds decoded training images.
    large = {p.name for p in (tmp_path / "run").iterdir() if p.stat().st_size > 3 * 96 * 112}
    assert large <= {"checkpoint.pt", "toy.adapter.safetensors", "samples", "tensorboard"}


def test_gradient_checkpointing_changes_no_gradient(words, tmp_path):
    for name in ("no", "yes"):
        train_adapter(
            words(
                name, "backbone=nano_pixel", "steps=2", f"gradient_checkpointing={'true' if name == 'yes' else 'false'}"
            )
        )
    assert close(state(tmp_path / "no"), state(tmp_path / "yes"))
