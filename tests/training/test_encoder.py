"""Stage 1: which decoder an image trains, and what its distortion is; tables counted at the end are those of coded symbols."""

import random

import numpy as np
import pytest
import torch

from priorcodec.core.codec import Codec
from priorcodec.core.errors import WeightsError
from priorcodec.core.latent_refinement import RefineConfig
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.training import frequencies
from priorcodec.training.encoder import PIXELS, Objective
from priorcodec.training.perceptual import Look, View
from tests.training.helpers import ENCODER

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
QUALITY = torch.tensor([2.0, 7.0])
LOOK = Look(through=0, view=View.draw(random.Random(0), (64, 64), 64))


class Fixed(torch.nn.Module):
    """A distance of 0.25 between any two images."""

    def forward(self, x_hat, x, look):
        return 0.25 + 0 * (x_hat - x).mean((1, 2, 3))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ImageEncoder(EncoderConfig(**ENCODER))


def loss(model, perceptual, distance=None, weight=0.0):
    objective = Objective(model, LambdaSchedule(), distance, weight=weight, bf16=False)
    return objective(IMAGES, QUALITY, torch.tensor(perceptual), lambda like: torch.full_like(like, 0.5), LOOK)


@pytest.mark.parametrize(
    "perceptual, trained", [((False, False), {"g_s"}), ((True, True), {"g_p"}), ((False, True), {"g_s", "g_p"})]
)
def test_each_image_trains_one_decoder(model, perceptual, trained):
    loss(model, perceptual)[0].backward()
    got = {name for name in ("g_s", "g_p") if getattr(model, name).head.weight.grad is not None}
    assert got == trained and model.g_a[1].weight.grad is not None


def test_lambda_rises_and_low_rates_weigh_more():
    schedule, quality = LambdaSchedule(), torch.arange(12.0)
    assert torch.isclose(schedule.lambdas(torch.tensor(3.0)), torch.tensor(6e-5))
    assert (schedule.lambdas(quality).diff() > 0).all() and (schedule.weights(quality).diff() < 0).all()


def test_the_lambdas_of_a_training_are_those_of_its_refinement(model, tmp_path):
    path, image = tmp_path / "encoder.safetensors", IMAGES[0].permute(1, 2, 0).numpy().copy()
    lambdas = []
    for metadata in ({}, {"lambdas": '{"lowest": 1e-4, "highest": 0.5, "balance": 0.3}'}):
        save_encoder(model, path, metadata)
        codec = Codec(path)
        lambdas.append(float(codec.weights.schedule.lambdas(torch.tensor(3.0))))
        assert codec.encode(image, 3, refined=RefineConfig(steps=2)).refinement is not None
    assert lambdas == pytest.approx([6e-5, 1e-4 * 5000 ** (3 / 11)], rel=1e-3)
    for wrong in ('{"lowest": 0}', '{"lowest": "a"}', "[1]", '{"other": 1}', "nonsense"):
        save_encoder(model, path, {"lambdas": wrong})
        with pytest.raises(WeightsError, match="is a damaged encoder"):
            Codec(path)


def test_the_distance_counts_for_the_perceptual_decoder_alone(model):
    schedule = LambdaSchedule()
    plain, watched = loss(model, (True, True))
    mixed, _ = loss(model, (True, True), Fixed(), 40.0)
    share = schedule.weights(QUALITY) * schedule.lambdas(QUALITY)
    x = IMAGES.float() / 127.5 - 1
    coded = model.code(x, QUALITY, uniform=lambda like: torch.full_like(like, 0.5))
    mse = (model.g_p(coded.y_hat, QUALITY) - x).square().mean((1, 2, 3)) * 127.5**2
    wanted = (share * (40.0 * 0.25 - (1 - PIXELS) * mse)).mean()
    assert (mixed - plain).item() == pytest.approx(wanted.item(), rel=1e-3)
    assert loss(model, (False, False), Fixed(), 40.0)[0] == loss(model, (False, False))[0]
    assert watched["psnr"].item() == pytest.approx((10 * torch.log10(255**2 / mse)).mean().item(), rel=1e-4)


def test_counted_symbols_are_those_that_are_coded(model, tmp_path):
    model.log_gain.data += 4  # untrained features are small: without this every symbol is zero
    counts = frequencies.count(model, IMAGES)
    save_encoder(model, tmp_path / "plain.safetensors", {})
    save_encoder(model, tmp_path / "fitted.safetensors", {}, frequencies=counts.tables())
    plain, fitted = (Codec(tmp_path / f"{name}.safetensors") for name in ("plain", "fitted"))
    images = [image.permute(1, 2, 0).numpy() for image in IMAGES]
    coded = [plain.encode(np.ascontiguousarray(image), level) for image in images for level in range(12)]
    places = 12 * len(images) * 16
    assert counts.counts["z"].sum() == places // 16 * model.config.m_h
    assert 0 < counts.counts["y"].sum() <= places * model.config.m
    again = [fitted.encode(np.ascontiguousarray(image), level) for image in images for level in range(12)]
    assert [a.symbols_sha256 for a in again] == [c.symbols_sha256 for c in coded]
