"""Refinement: never worse, the same again, read back exactly, stopped early; GMSD's terms; with a tiny random encoder mostly."""

import json

import numpy as np
import pytest
import torch

from priorcodec import ConfigError
from priorcodec.core import gradient_similarity, latent_refinement
from priorcodec.core.codec import Codec
from priorcodec.core.image import io as image_io
from priorcodec.core.latent_refinement import RefineConfig
from priorcodec.core.rd_loss import LambdaSchedule
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from tests.helpers import DEMO, quick


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image_io.load(DEMO).pixels[100:170, 200:310]  # 70 x 110: not a multiple of 64


@pytest.fixture(scope="module")
def random_encoder(tmp_path_factory):
    """Untrained, so almost any change of its symbols is for the better."""
    torch.manual_seed(0)
    model = ImageEncoder(EncoderConfig(n8=8, n16=8, m=12, groups=(4, 8), m_h=4, n=8, depth8=1, depth16=1, levels=3))
    model.log_gain.data += 4  # untrained features are small: without this every symbol is zero
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_encoder(model, path, {})
    return path


@pytest.fixture(scope="module")
def shipped() -> Codec:
    return Codec()


@pytest.fixture(scope="module")
def tiny(random_encoder) -> Codec:
    return Codec(random_encoder)


def true_cost(codec, data, pixels):
    """bpp, mean squared error of the preview and R + lambda D by the file alone."""
    decoded = codec.decode(data)
    error = np.square(codec.preview(decoded).astype(float) - pixels).mean()
    bpp = 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
    lam = float(LambdaSchedule(levels=codec.levels).lambdas(torch.tensor(decoded.quality)))
    return bpp, error, bpp + lam * error


@pytest.mark.parametrize("quality", [0.0, 0.5])
def test_the_costs_are_those_of_the_files_and_the_second_is_lower(tiny, photo, quality):
    plain, steps = tiny.encode(photo, quality), []
    refined = tiny.encode(photo, quality, refined=RefineConfig(steps=30, progress=steps.append))
    refinement = refined.refinement
    for cost, data in ((refinement.before, plain.data), (refinement.after, refined.data)):
        bpp, error, total = true_cost(tiny, data, photo)
        assert (cost.bytes, cost.bpp) == (len(data), bpp)
        assert cost.distortion == pytest.approx(error, rel=1e-9) and cost.total == pytest.approx(total, rel=1e-6)
    assert refinement.after.total < 0.995 * refinement.before.total
    assert steps == list(range(1, refinement.steps + 1)) and refinement.seconds > 0
    assert tiny.decode(refined.data).symbols_sha256 == refined.symbols_sha256 != plain.symbols_sha256
    assert refined.container.quality == plain.container.quality


def test_the_shipped_encoder_on_a_photograph(shipped, photo):
    refinement = shipped.encode(photo, 7, refined=RefineConfig(steps=30)).refinement
    assert refinement.after.total < 0.995 * refinement.before.total


def test_the_same_seed_gives_the_same_file_another_one_another(tiny, photo, monkeypatch):
    a, b = (tiny.encode(photo, 1, refined=RefineConfig(steps=12)).data for _ in range(2))
    monkeypatch.setattr(latent_refinement, "SEED", 1)
    assert a == b != tiny.encode(photo, 1, refined=RefineConfig(steps=12)).data


def test_a_step_that_only_harms_is_not_kept_and_ends_it_early(tiny, photo, monkeypatch):
    monkeypatch.setattr(latent_refinement, "RATE", 30.0)
    plain = tiny.encode(photo, 1)
    refined = tiny.encode(photo, 1, refined=RefineConfig(steps=50))
    refinement = refined.refinement
    assert refined.data == plain.data and refinement.after == refinement.before
    assert refinement.steps == latent_refinement.PATIENCE * 50 // latent_refinement.CHECKS


def test_values_that_are_not_numbers_are_never_coded(tiny, photo, monkeypatch):
    monkeypatch.setattr(latent_refinement, "SHARPNESS", float("nan"))
    refined = tiny.encode(photo, 1, refined=RefineConfig(steps=50))
    assert refined.data == tiny.encode(photo, 1).data and refined.refinement.steps == 50 // latent_refinement.CHECKS


def test_statistics_are_written_and_counted(tiny, photo):
    refined = tiny.encode(photo, 1, statistics=True, refined=RefineConfig(steps=10))
    assert tiny.decode(refined.data).statistics is not None
    assert refined.refinement.after.bytes == len(refined.data)


def test_the_simulation_agrees_with_the_exact_tables(tiny, shipped, photo):
    for codec in (tiny, shipped):
        x = image_io.pad(image_io.to_tensor(photo))
        with torch.no_grad():
            y_q, z = codec.transforms.scaled(codec.transforms.g_a(x), torch.tensor([1.0]))
            prior, coded = codec.simulation, codec.entropy_model.encode(y_q[0].numpy(), z[0].numpy(), 16)
            z_mean, _ = prior.hyper_parameters(torch.tensor([1.0]))
            phi = prior.features((z - z_mean + 0.5).floor() + z_mean, torch.tensor([1.0]))
            symbols, mean, _ = prior(y_q, phi)
            y_hat = symbols + mean
        different = (y_hat[0] - torch.from_numpy(coded.y_hat_q)).abs() > 1e-4
        assert different.float().mean() < 0.002  # halves may round either way


def test_softened_values_lie_between_their_neighbors_and_freeze(monkeypatch):
    value, still = torch.linspace(-3, 3, 301), torch.Generator()
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 0.5))  # no noise
    warm, cold = (latent_refinement.soften(value, t, still) for t in (0.7, 0.01))
    monkeypatch.undo()
    assert ((warm >= value.floor()) & (warm <= value.floor() + 1)).all() and warm.diff().min() > -1e-4
    clear = (value - value.round()).abs() < 0.45
    assert torch.allclose(cold[clear], value[clear].round(), atol=1e-3)
    up = latent_refinement.soften(torch.full((20000,), 0.3), 0.7, torch.Generator().manual_seed(0))
    assert 0.05 < (up > 0.5).float().mean() < 0.35  # sometimes the further one, more often the nearer one


def test_refining_for_gmsd_keeps_more_of_it(shipped):
    photo = image_io.load(DEMO).pixels[:128, :128]
    deviations, totals = [], []
    for metric in latent_refinement.METRICS:
        encoded = shipped.encode(photo, 3, refined=RefineConfig(steps=20, metric=metric))
        preview = shipped.preview(shipped.decode(encoded.data))
        magnitude = [gradient_similarity.gradient_magnitude(image_io.to_tensor(p)) for p in (preview, photo)]
        deviations.append(1 - float(gradient_similarity.similarity(*magnitude).mean()))
        totals.append(encoded.refinement)
    assert deviations[1] < deviations[0]
    assert all(refinement.after.total <= refinement.before.total for refinement in totals)


@pytest.mark.parametrize("metric", ["structure", "nano_dit", "", None])
def test_another_metric_is_refused(metric):
    with pytest.raises(ConfigError, match="wanted psnr or gmsd"):
        RefineConfig(steps=5, metric=metric)


@pytest.mark.parametrize("target", [150, 240])
def test_a_target_is_kept_and_the_distortion_is_no_larger(shipped, photo, target):
    plain = shipped.encode_to(photo, target).encoded
    found = shipped.encode_to(photo, target, refined=RefineConfig(steps=10))
    assert len(found.encoded.data) <= target and found.target == target
    assert true_cost(shipped, found.encoded.data, photo)[1] <= true_cost(shipped, plain.data, photo)[1]
    assert shipped.decode(found.encoded.data).symbols_sha256 == found.encoded.symbols_sha256
    note = found.note()
    assert (note is None) == found.hit and (note is None or "\n" not in note)


@pytest.mark.parametrize("steps", [-1, 0, 10_001])
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(ConfigError, match=f"refine is {steps} steps, wanted 1 to 10000"):
        RefineConfig(steps=steps)


def test_the_command_line(tmp_path, photo):
    image_io.save(photo, tmp_path / "a.png")
    status, out, _ = quick("encode", tmp_path / "a.png", "-q", 1, "--refine", 10, "--json")
    refinement = json.loads(out)[0]["refinement"]
    assert status == 0 and refinement["steps"] <= 10 and refinement["after"]["total"] <= refinement["before"]["total"]
    assert refinement["after"]["bytes"] == (tmp_path / "a.gic").stat().st_size
    assert quick("preview", tmp_path / "a.gic")[0] == 0
    for words, part in ((("--refine", -1), "refine is -1 steps"),):
        status, _, message = quick("encode", tmp_path / "a.png", "-o", tmp_path / "b.gic", *words)
        assert status == 2 and part in message and "\n" not in message and not (tmp_path / "b.gic").exists()
