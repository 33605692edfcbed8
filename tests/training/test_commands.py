"""`priorcodec train`: killed and resumed, in two processes, frozen parts, warm start, loss terms, settings.

Children come from a fork server that has imported everything once: real processes, really killed.
"""

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec import ConfigError, TrainingError, cli
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.backbones.builtin import _toy_model, toy
from priorcodec.config import compose
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import load_simulation, save_encoder
from priorcodec.registry import open_registry
from priorcodec.training import adapter as adapter_training
from priorcodec.training import data, run
from priorcodec.training import encoder as train
from priorcodec.training.adapter import AdapterRunConfig, LossWeights, Objective
from priorcodec.training.losses import Perceptual

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["priorcodec.training.encoder", "peft", "accelerate", "tests.training.test_commands"])
SIZES = {
    "width": 8,
    "depth": 1,
    "fine_width": 8,
    "fine_depth": 1,
    "fusion": 8,
    "window": 4,
    "detail": 8,
    "detail_depth": 1,
    "mapper": True,
}
WORDS = [
    *("backbone=toy", "tiny=true", "device=cpu", "precision=no", "batch=4", "crop=64", "lr=0.01", "warmup=2"),
    *("loss.perceptual=0", "log_every=1", "save_minutes=0"),
    *(f"adapter.{key}={value}" for key, value in SIZES.items()),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with images and a tiny encoder; world / "images", world / "encoder.safetensors"."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        small.resize((112 + i, 96), Image.Resampling.BICUBIC).save(folder / "images" / f"{i}.png")
    torch.manual_seed(0)
    model = ImageEncoder(EncoderConfig(n8=8, n16=8, m=6, m_h=4, n=8, depth=1))
    save_encoder(model, folder / "encoder.safetensors", {})
    return folder


@pytest.fixture
def words(world, tmp_path):
    """words("run", "steps=3") -> the command's words for a run in a folder of this test."""

    def make(run, *more):
        places = [f"data={world / 'images'}", f"run={tmp_path / run}", f"encoder={world / 'encoder.safetensors'}"]
        return [*WORDS, *places, *more]

    return make


def state(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same(a, b):
    return all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"]) and all(
        torch.equal(x, y) for x, y in zip(a["average"], b["average"], strict=True)
    )


def child(words):
    torch.set_num_threads(1)
    train.train_adapter(words)


def kill_and_resume(words, folder, *, kills, steps, seed):
    """Start the run again and again, killing it `kills` times, at a random moment behind a random step; then let it end."""
    rng = random.Random(seed)
    done = 0
    while True:
        process = SERVER.Process(target=child, args=(words,))
        process.start()
        limit = sorted(rng.sample(range(steps), kills))[done] if done < kills else None
        while limit is not None and process.is_alive():
            log = folder / "log.jsonl"
            if log.exists() and len(log.read_text().splitlines()) >= limit:
                time.sleep(rng.random() * 0.05)
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        process.join(200)
        if process.exitcode == 0:
            return done
        assert process.exitcode == -signal.SIGKILL
        done += 1
        if (folder / "checkpoint.pt").exists():
            state(folder)  # whole at any moment


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_resumes_to_the_same_weights(words, tmp_path, kills):
    steps = 4 * kills
    whole = SERVER.Process(target=child, args=(words("whole", f"steps={steps}"),))  # with the threads of the others
    whole.start()
    whole.join(200)
    assert whole.exitcode == 0
    assert (
        kill_and_resume(words("parts", f"steps={steps}"), tmp_path / "parts", kills=kills, steps=steps, seed=kills) > 0
    )
    assert same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    steps_logged = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps_logged == sorted(set(steps_logged)) and steps_logged[-1] == steps
    name = "toy.adapter.safetensors"
    one, two = (adapter_file.read(tmp_path / run / name) for run in ("whole", "parts"))
    assert all(torch.equal(one.tensors[key], two.tensors[key]) for key in one.tensors)


def ranked(words, rank, port, encoder):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    torch.set_num_threads(1)
    train.train_encoder(words) if encoder else train.train_adapter(words)


def two_processes(words, *, encoder=False):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [SERVER.Process(target=ranked, args=(words, rank, port, encoder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0]


def close(a, b):
    return all(torch.allclose(a["model"][key], b["model"][key], atol=1e-4, rtol=1e-4) for key in a["model"])


def test_two_processes_and_one_do_the_same_first_steps(words, tmp_path):
    more = ("steps=4", "lr=0.001", "loss.adversarial=0.1")
    train.train_adapter(words("one", *more))
    two_processes(words("two", *more))
    assert close(state(tmp_path / "one"), state(tmp_path / "two"))
    rows = [[json.loads(x) for x in (tmp_path / run / "log.jsonl").read_text().splitlines()] for run in ("one", "two")]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], abs=2e-4)
    train.train_adapter(words("parts", *more, "accumulate=2"))
    assert close(state(tmp_path / "one"), state(tmp_path / "parts"))
    train.train_adapter(words("other", *more, "seed=1"))
    assert not close(state(tmp_path / "one"), state(tmp_path / "other"))


ENCODER = ("n8=8", "n16=8", "m=6", "m_h=4", "n=8", "depth=1")


def encoder_words(words, run, *more):
    own = [
        w
        for w in words(run)
        if w.partition("=")[0] in ("data", "run", "device", "precision", "batch", "crop", "log_every")
    ]
    return [*own, "save_minutes=0", *(f"encoder.{w}" for w in ENCODER), *more]


def test_encoder_in_one_and_two_processes_and_from_another_run(words, tmp_path, capsys):
    assert train.train_encoder(encoder_words(words, "one", "steps=3")) == tmp_path / "one" / "encoder.safetensors"
    assert "does not decode the files of any other" in capsys.readouterr().err
    load_simulation(tmp_path / "one" / "encoder.safetensors")
    two_processes(encoder_words(words, "two", "steps=3"), encoder=True)
    assert close(state(tmp_path / "one"), state(tmp_path / "two"))
    train.train_encoder(encoder_words(words, "next", "steps=1", f"start={tmp_path / 'one'}", "lr=1e-9"))
    old, new = (state(tmp_path / run) for run in ("one", "next"))
    assert torch.allclose(new["average"][0], old["average"][0], atol=1e-6)
    with pytest.raises(TrainingError, match="another shape"):
        train.train_encoder(encoder_words(words, "odd", "steps=1", f"start={tmp_path / 'one'}", "encoder.m=8"))


class Restless(_toy_model.Toy):
    def to_latents(self, x):
        with torch.no_grad():
            self.module.conv1.weight.add_(1e-6)
        return super().to_latents(x)


class Broken(_toy_model.Toy):
    def to_pixels(self, z):
        return super().to_pixels(z) * torch.inf


def train_on(model, words):
    config = compose(AdapterRunConfig, [w.replace("backbone=", "backbone.name=") for w in words])
    spec = replace(toy.SPEC, build_tiny=lambda: model(toy.WIDTH))
    return adapter_training.train(config, spec, None, Path(config.encoder), known={"toy": toy.SPEC})


def test_a_backbone_that_changes_is_found_out(words, tmp_path):
    with pytest.raises(TrainingError, match="the backbone changed while training"):
        train_on(Restless, words("run", "steps=2"))
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert train_on(_toy_model.Toy, words("good", "steps=2")) is not None


def test_fingerprint_sees_every_bit_and_no_lora():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    before = run.fingerprint([module])
    assert run.fingerprint([module]) == before
    module[1].running_mean += 1e-7
    assert run.fingerprint([module]) != before


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
    assert len(errors) == 1 and "lower the learning rate and resume" in errors[0]


@pytest.fixture(scope="module")
def objective(world):
    """objective("pixel") -> gradients of the adapter under that loss term alone."""
    encoder = load_simulation(world / "encoder.safetensors")
    images = [np.asarray(Image.open(p))[:64, :64] for p in sorted((world / "images").iterdir())]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    def gradients(quality=(0.0, 3.5, 7.0), **weights):
        torch.manual_seed(0)
        adapter = Adapter(toy.SPEC, AdapterConfig(**SIZES), m=6, levels=8, tiny=True)
        adapter.inject(toy.build_tiny())
        for fresh in (adapter.bridge.tail, adapter.detail.tail, adapter.detail.grain):
            torch.nn.init.normal_(fresh.weight, std=0.1)
        none = dict.fromkeys((f.name for f in fields(LossWeights)), 0.0)
        distance = Perceptual("vgg") if weights.get("perceptual") else None
        made = Objective(adapter, encoder, LossWeights(**(none | weights)), distance=distance, window=32, bf16=False)
        grain, *sides = adapter.noise_shape(64, 64)
        total, terms = made(x, torch.tensor(quality), (8, 16), torch.randn(3, 2 * grain, *sides))
        total.backward()
        return {name: p.grad for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}, terms

    return gradients


@pytest.mark.parametrize("term", [f.name for f in fields(LossWeights)])
def test_every_loss_term_is_reported_and_moves_the_adapter(objective, term):
    found, terms = objective(**{term: 1.0})
    assert term in terms
    moved = {name.split(".")[1] for name in found if name.startswith("adapter.")}
    assert moved == {"statistics"} if term == "statistics" else "bridge" in moved
    if term == "adversarial":
        assert any(name.startswith("critic.") for name in found) and "critic" in terms
    other, _ = objective(latent=1.0, **({"pixel": 1.0} if term == "latent" else {term: 1.0}))
    latent, _ = objective(latent=1.0)
    assert any(not torch.equal(latent[name], other[name]) for name in latent) or set(latent) != set(other)


def test_two_draws_may_differ_where_the_file_says_little(objective):
    """The spread is rewarded at the lowest quality, at the highest it is nothing."""
    found, low = objective(quality=(0.0, 0.0, 0.0), spread=1.0)
    assert low["spread"] < 0 and "adapter.detail.grain.weight" in found
    found, high = objective(quality=(7.0, 7.0, 7.0), spread=1.0)
    assert high["spread"] == 0 and not found


def test_enlarged_crops_are_smoother_parts_of_the_same_ones(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    data.pack([tmp_path / "a.png"], tmp_path / "packed")

    def crops(**how):
        slots = data.Slots(tmp_path / "packed", 64, seed=3, **how)
        return torch.stack([slots[0, slot] for slot in range(40)]).float()

    plain, some = crops(), crops(enlarged=0.5)
    same = [torch.equal(a, b) for a, b in zip(plain, some, strict=True)]
    assert 8 < sum(same) < 32 and torch.equal(some, crops(enlarged=0.5))
    for before, after, is_same in zip(plain, some, same, strict=True):
        if not is_same:
            assert after.diff(dim=-1).abs().mean() < 0.8 * before.diff(dim=-1).abs().mean()


def test_another_run_folder_for_other_settings(words, tmp_path):
    train.train_adapter(words("run", "steps=2"))
    with pytest.raises(ConfigError, match=r"began with other settings: lr=0.02 \(was 0.01\).*another run="):
        train.train_adapter(words("run", "steps=2", "lr=0.02"))
    with pytest.raises(ConfigError, match="adapter.width=16"):
        train.train_adapter(words("run", "adapter.width=16"))
    train.train_adapter(words("run", "steps=3", "log_every=2", "data_note=three mosaics"))
    assert state(tmp_path / "run")["step"] == 3
    file = adapter_file.read(tmp_path / "run" / "toy.adapter.safetensors")
    assert (file.metadata["steps"], file.metadata["data"]) == ("3", "three mosaics")
    assert (tmp_path / "run" / "README.md").exists()


def test_another_encoder_is_not_taken_for_the_first(words, tmp_path, world):
    train.train_adapter(words("run", "steps=1"))
    torch.manual_seed(1)
    save_encoder(ImageEncoder(EncoderConfig(n8=8, n16=8, m=6, m_h=4, n=8, depth=1)), tmp_path / "e.safetensors", {})
    mine, theirs = (tmp_path / "run" / "config.yaml", str(world / "encoder.safetensors"))
    mine.write_text(mine.read_text().replace(theirs, str(tmp_path / "e.safetensors")))
    with pytest.raises(TrainingError, match="trained with encoder"):
        train.train_adapter(words("run", "steps=2", f"encoder={tmp_path / 'e.safetensors'}"))


def test_warm_start_takes_what_still_means_the_same(words, tmp_path, world):
    path = train.train_adapter(words("toy", "steps=2"))
    file = adapter_file.read(path)
    number = int(file.metadata["encoder"], 16)
    registry = open_registry()

    def fresh(name, **sizes):
        spec = registry.spec(name)
        adapter = Adapter(spec, AdapterConfig(**{**SIZES, **sizes}), m=6, levels=8, tiny=True)
        adapter.inject(spec.build_tiny())
        return adapter

    def taken(adapter, **how):
        before = {name: value.clone() for name, value in adapter.state_dict().items()}
        line = adapter_training.warm_start(adapter, file, **{"same_latent": False, "encoder": number, **how})
        return {name for name, value in adapter.state_dict().items() if not torch.equal(value, before[name])}, line

    names, line = taken(fresh("nano_unet"))
    assert {"bridge.head.1.weight", "bridge.down.1.weight", "pyramid.levels.1.weight", "tokens.queries"} <= names
    assert not any(name.startswith(adapter_training.FRESH + adapter_training.OUTPUT) for name in names)
    assert "from toy.adapter.safetensors (for toy)" in line
    assert any(name.startswith("statistics.") for name in taken(fresh("toy"))[0])
    other, _ = taken(fresh("nano_unet"), encoder=number ^ 1)
    assert names - other == {name for name in names if name.startswith(adapter_training.CODED)}
    again = fresh("toy")
    assert f"took {len(file.tensors)} of {len(file.tensors)} tensors" in taken(again)[1]
    assert all(torch.equal(p.half(), file.tensors[f"lora.{name}"]) for name, p in again.lora.items())
    train.train_adapter(words("next", "steps=1", f"start={path}"))


@pytest.mark.parametrize("part", ["lora", "bridge", "detail"])
def test_only_the_chosen_part_moves(words, tmp_path, part):
    path = train.train_adapter(words("all", "steps=1"))
    train.train_adapter(words(part, "steps=3", f"train={part}", f"start={path}"))
    before, after = adapter_file.read(path).tensors, adapter_file.read(tmp_path / part / path.name).tensors
    moved = {name.split(".")[0] if name.startswith("lora") else name.split(".")[1] for name in before
             if not torch.equal(before[name], after[name])}  # fmt: skip
    assert moved == {part}


def test_samples_tensorboard_tar_shards_and_unreadable_images(words, tmp_path, world, capsys):
    import tarfile

    (tmp_path / "bad.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(world / "images" / "0.png", "0.png")
        tar.add(tmp_path / "bad.png", "bad.png")
    data = f"data={tmp_path / 'a.tar'},{world / 'images' / '1.png'}"
    train.train_adapter(words("run", "steps=2", data, f"samples={world / 'images'}", "sample_every=1"))
    assert "left out: bad.png" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "run" / "images.json").read_text())) == 2
    montage = Image.open(tmp_path / "run" / "samples" / "0000002.png")
    assert montage.size == (3 * 256, 3 * 256)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    packed = f"data={tmp_path / 'run' / 'images'}"
    train.train_adapter(words("again", "steps=1", packed))
    assert not (tmp_path / "again" / "images.bin").exists()


def test_gradient_checkpointing_changes_no_gradient(words, tmp_path):
    for name in ("no", "yes"):
        train.train_adapter(
            words(
                name, "backbone=nano_unet", "steps=2", f"gradient_checkpointing={'true' if name == 'yes' else 'false'}"
            )
        )
    assert close(state(tmp_path / "no"), state(tmp_path / "yes"))


@pytest.mark.parametrize(
    "word,part",
    [
        ("batch=5", "nearest|multiple of 2"),
        ("crop=100", "multiple of 64"),
        ("loss.pixel=-1", "wanted 0 or more"),
        ("adapter.width=0", "adapter setting width"),
        ("backbone=tyo", "no such backbone"),
        ("lerning=1", "no setting"),
        ("window=128", "wanted 16 to crop=64"),
        ("data=/no/such/place", "no such folder"),
        ("train=tokens", "train=tokens"),
    ],
)
def test_wrong_settings_are_one_line(words, word, part):
    with pytest.raises((ConfigError, TrainingError), match=part):
        train.train_adapter(words("run", "accumulate=2", word))


def test_the_docs_list_every_setting():
    page = (Path(__file__).parents[2] / "docs" / "train.md").read_text()
    for schema in (AdapterRunConfig, train.EncoderRunConfig):
        missing = [row for row in run.rows(schema) if table_row(*row) not in page]
        assert missing == []


def table_row(name, default, meaning):
    return f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |"
