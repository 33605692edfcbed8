"""Run folders: bound to their settings once data was found; damage and mistakes are one line, and nothing is lost."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from filelock import FileLock

from priorcodec import ConfigError, PriorCodecError, TrainingError
from priorcodec.adapters import file as adapter_file
from priorcodec.core.image import io as image_io
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.training.adapter import train_adapter
from priorcodec.training.encoder import start_from, train_encoder
from priorcodec.training.run import CONFIG, LOCK
from tests.training.helpers import ENCODER, state


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run: (folder, words that resume it)."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace(str(finished[0]), str(folder)))
    return folder, [*finished[1], f"run={folder}"]


def one_line(words, match, train=train_adapter):
    with pytest.raises(PriorCodecError, match=match) as caught:
        train(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_settings_need_another_folder(copied):
    folder, words = copied
    one_line([*words, "ema=0.9"], r"began with other settings: ema=0.9 \(was .*\).*another run folder")
    one_line([*words, "adapter.width=16"], "adapter.width=16")
    train_adapter([*words, "steps=3", "log_every=2", "data_note=three mosaics", "lr=0.005"])
    assert state(folder)["step"] == 3
    file = adapter_file.read(folder / "toy.adapter.safetensors")
    assert (file.metadata["steps"], file.metadata["data"]) == ("3", "three mosaics")
    assert (folder / "README.md").exists()


def test_two_trainings_do_not_share_a_folder(copied):
    folder, words = copied
    before = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}
    with FileLock(folder / LOCK):
        one_line([*words, "steps=3"], "another process trains in .*: wait for it, or use another run folder")
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert train_adapter([*words, "steps=3"]) is not None


def test_weights_that_are_not_finite_are_never_a_checkpoint(copied, words, tmp_path, monkeypatch):
    folder, resumed = copied
    kept = (folder / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: spoil(self))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: spoil(self))
    one_line([*resumed, "steps=9"], r"a value of .* is nan at step .*lr=.*resume .*, the last good state is there")
    assert (folder / "checkpoint.pt").read_bytes() == kept
    one_line(words("fresh", "steps=1"), r"a value of .* is nan at step 1: .*nothing was saved yet")
    assert not (tmp_path / "fresh" / "checkpoint.pt").exists()


def spoil(optimizer):
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0].fill_(torch.nan)


def test_a_mistake_in_data_does_not_bind_the_folder(words, world, tmp_path):
    one_line(words("run", "steps=1", "data=/no/such/place"), "no such folder")
    (tmp_path / "empty").mkdir()
    one_line(words("run", "steps=1", f"data={tmp_path / 'empty'}"), "no image")
    one_line(words("run", "steps=1", "crop=192"), "images of data= has 192 pixels")
    small = tmp_path / "small"
    small.mkdir()
    image_io.save(np.zeros((40, 40, 3), np.uint8), small / "0.png")
    one_line(words("run", "steps=1", f"data={small}"), "none of the 1 images of data= has")
    shutil.copy(world / "images" / "0.png", small / "1.png")
    train_adapter(words("again", "steps=1", f"data={small}"))
    one_line(words("run", "steps=1", f"data={small}", "crop=192"), "none of the 2 images")  # listed again
    one_line(words("run", "steps=1", f"samples={tmp_path / 'empty'}"), "samples=.*no image there")
    assert not (tmp_path / "run" / CONFIG).exists()
    train_adapter(words("run", "steps=1"))
    assert (tmp_path / "run" / CONFIG).exists()


def test_a_resumed_run_keeps_its_index_when_other_data_is_refused(copied, world):
    folder, words = copied
    before = (folder / "images.json").read_bytes()
    one_line([*words, f"data={world / 'images' / '0.png'}"], "began with other settings: data=")
    assert (folder / "images.json").read_bytes() == before


@pytest.mark.parametrize("size", [0, 1, 100, 5000, -1])
def test_a_cut_checkpoint(copied, size):
    folder, words = copied
    whole = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(whole[:size])
    one_line([*words, "steps=3"], "checkpoint.pt is damaged: delete it to start over")
    assert (folder / "checkpoint.pt").read_bytes() == whole[:size]


@pytest.mark.parametrize(
    "content", [{}, [1], {"model": 1, "average": 1, "optimizer": 1, "step": 1, "minutes": 1, "rng": 1}]
)
def test_another_file_as_a_checkpoint(copied, content):
    folder, words = copied
    torch.save(content, folder / "checkpoint.pt")
    one_line([*words, "steps=3"], "not a checkpoint|another model's run")


def test_a_pickle_is_not_run(copied):
    folder, words = copied
    (folder / "checkpoint.pt").write_bytes(pickle.dumps({"step": print}))
    one_line([*words, "steps=3"], "checkpoint.pt is damaged")


@pytest.mark.parametrize(
    "content",
    [b"a: [1", b"- a\n- b\n", b"\x00\xff\xfe", b"word", b"steps: many\n", b"nothing: 1\n"],
)
def test_broken_saved_settings(copied, content):
    folder, words = copied
    (folder / CONFIG).write_bytes(content)
    message = one_line([*words, "steps=3"], "config.yaml is damaged")
    assert "not given" not in message  # what is wrong, not what is missing because of it


def test_saved_settings_are_read_as_they_were_written(copied):
    """An empty text, a tilde and quotation marks are not YAML's null."""
    folder, words = copied
    for note in ("", "~", "null and void", "'quoted'"):
        train_adapter([*words, "steps=3", f"data_note={note}"])
    one_line([*words, "minutes=inf"], "minutes=inf: wanted a finite number")


def test_a_readme_of_something_else_is_named_before_training(copied):
    folder, words = copied
    (folder / "README.md").write_text("---\na: [1\n---\nmine")
    one_line([*words, "steps=9"], "README.md is not an adapter's card and stays")
    assert state(folder)["step"] == 2 and (folder / "README.md").read_text().endswith("mine")


@pytest.mark.parametrize("name", ["toy.adapter.safetensors", "log.jsonl", "images.json", "README.md"])
def test_files_of_others_in_the_run_folder_stay(words, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text('{"mine": 1}')
    one_line(words("run", "steps=1"), f"{name}.*(would replace|stays)")
    assert [(path.name, path.read_text()) for path in (tmp_path / "run").iterdir()] == [(name, '{"mine": 1}')]


def test_an_adapter_to_start_from_is_not_replaced(copied, words):
    folder, _ = copied
    path = folder / "toy.adapter.safetensors"
    (folder / CONFIG).unlink()
    before = path.read_bytes()
    one_line(
        words("run", "steps=1", f"start={path}"), "holds toy.adapter.safetensors, which this training would replace"
    )
    assert path.read_bytes() == before


def test_an_encoder_in_the_run_folder_stays(encoder_words, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "encoder.safetensors").write_text("mine")
    one_line(
        encoder_words("run", "steps=1"), "holds encoder.safetensors, which this training would replace", train_encoder
    )
    assert (tmp_path / "run" / "encoder.safetensors").read_text() == "mine"


def test_a_mistake_before_the_first_checkpoint_does_not_bind_the_folder(words, tmp_path):
    one_line(words("run", "steps=1", "start=nowhere.safetensors"), "nowhere.safetensors")
    one_line(words("run", "steps=1", "train=refiner", "adapter.refiner=0"), "there is nothing to train")
    wrong = ["train=refiner", *(f"loss.{term}=0" for term in ("pixel", "periodic_artifact", "gradient_difference"))]
    one_line(words("run", "steps=1", *wrong), "no term of the loss reaches what is trained")
    assert train_adapter(words("run", "steps=1")) is not None


def test_a_run_of_the_other_command_is_named(copied, encoder_words):
    folder, _ = copied
    words = [word for word in encoder_words("run", "steps=1") if not word.startswith("run=")]
    one_line([*words, f"run={folder}"], "holds a run of `train adapter`: use another run folder", train_encoder)


def test_impossible_lambdas_are_one_line(encoder_words):
    one_line(encoder_words("run", "steps=1", "lambdas.balance=nan"), r"lambdas\..*balance nan", train_encoder)


def test_a_damaged_log_is_kept_up_to_the_checkpoint(copied):
    folder, words = copied
    (folder / "log.jsonl").write_bytes(b'{"step": 1}\n[]\n{"step": "x"}\n\xff\xfe\n{"step": 2, "lo')
    train_adapter([*words, "steps=3"])
    assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] == [1, 3]


def test_a_damaged_index_is_made_again(copied):
    folder, words = copied
    (folder / "images.json").write_bytes(b"[")
    train_adapter([*words, "steps=3"])
    assert state(folder)["step"] == 3


def test_a_file_as_the_run_folder(words, tmp_path):
    (tmp_path / "run").write_text("mine")
    one_line(words("run", "steps=1"), "run=.*: a file, wanted a folder")
    one_line(words("run/below", "steps=1"), "run=.*wanted a folder")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(copied, monkeypatch):
    folder, words = copied
    before = (folder / "checkpoint.pt").read_bytes()

    def full(state, file):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    one_line([*words, "steps=3"], "cannot write .*checkpoint.pt .No space left on device.")
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert not list(folder.glob("*.part"))


def test_another_encoder_is_not_taken_for_the_first(copied, tmp_path, world):
    folder, words = copied
    torch.manual_seed(1)
    save_encoder(ImageEncoder(EncoderConfig(**ENCODER)), tmp_path / "e.safetensors", {})
    settings = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(settings.replace(str(world / "encoder.safetensors"), str(tmp_path / "e.safetensors")))
    one_line([*words, "steps=3", f"encoder={tmp_path / 'e.safetensors'}"], "trained with encoder")


def test_an_encoder_starts_from_another_run(encoder_words, tmp_path):
    train_encoder(encoder_words("one", "steps=1"))
    train_encoder(encoder_words("next", "steps=1", f"start={tmp_path / 'one'}", "lr=1e-9"))
    old, new = (state(tmp_path / run) for run in ("one", "next"))
    assert torch.allclose(new["average"][0], old["average"][0], atol=1e-6)
    one_line(encoder_words("odd", f"start={tmp_path / 'one'}", "encoder.n8=16"), "another shape", train_encoder)
    one_line(encoder_words("none", f"start={tmp_path / 'nowhere'}"), "no checkpoint.pt there", train_encoder)
    (tmp_path / "one" / "checkpoint.pt").write_bytes(b"cut")
    with pytest.raises(TrainingError, match="damaged"):
        start_from(ImageEncoder(EncoderConfig(**ENCODER)), tmp_path / "one")


def test_a_batch_that_cannot_be_shared_does_not_bind_the_folder(words, tmp_path):
    with pytest.raises(ConfigError, match="multiple of 3"):
        train_adapter(words("run", "accumulate=3"))
    assert not (tmp_path / "run" / CONFIG).exists()
