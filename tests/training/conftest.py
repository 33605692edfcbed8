"""A world to train in: three small images and a tiny encoder, made once; run folders are each test's own."""

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.training.adapter import train_adapter
from tests.training import helpers


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with images and a tiny encoder; world / "images", world / "encoder.safetensors"."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        small.resize((112 + i, 96), Image.Resampling.BICUBIC).save(folder / "images" / f"{i}.png")
    torch.manual_seed(0)
    save_encoder(ImageEncoder(EncoderConfig(**helpers.ENCODER)), folder / "encoder.safetensors", {})
    return folder


@pytest.fixture
def words(world, tmp_path):
    """words("run", "steps=3") -> the command's words for a run in a folder of this test."""

    def make(run, *more):
        places = [f"data={world / 'images'}", f"run={tmp_path / run}", f"encoder={world / 'encoder.safetensors'}"]
        return [*helpers.WORDS, *places, *more]

    return make


@pytest.fixture
def encoder_words(words):
    def make(run, *more):
        kept = ("data", "run", "device", "precision", "batch", "crop", "log_every", "save_minutes")
        own = [w for w in words(run) if w.partition("=")[0] in kept]
        sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in helpers.ENCODER.items()}
        return [*own, *(f"encoder.{key}={value}" for key, value in sizes.items()), "distance=0", "counted=4", *more]

    return make


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory):
    """A finished run of two steps, to be copied, with the words that resume it: (folder, words without run=)."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    text = [*helpers.WORDS, f"data={world / 'images'}", f"encoder={world / 'encoder.safetensors'}", "steps=2"]
    train_adapter([*text, f"run={folder}"])
    return folder, text
