"""A backbone's image in tiles: no seams; noise, moments and preview of the whole."""

import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from priorcodec import open_session
from priorcodec.adapters import decode as adapter_decode
from priorcodec.adapters.adapter import Estimate
from priorcodec.adapters.bridge import MomentsHead
from priorcodec.backbones.diffusion import seeded_noise
from priorcodec.batch.fingerprint import fingerprints
from priorcodec.core import tiling
from priorcodec.core.image import io as image_io
from priorcodec.core.moments import merge_moments
from priorcodec.core.statistics import ImageStatistics, measure_shown
from tests.helpers import DEMO


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image_io.load(DEMO).pixels[40:390, 60:500]


@pytest.fixture(scope="module")
def file(photo) -> bytes:
    return open_session().encode(photo, quality=3, statistics=True)


def decoded_with(file, backbone="nano_pixel", **settings):
    return open_session(backbone, **settings).decode(file, output="np").astype(float)


def step(image, column):
    """Size of the step across a vertical line that goes on along it for 32 pixels."""
    difference = (image[:, column] - image[:, column - 1]).mean(-1)
    return np.abs(difference[: len(difference) // 32 * 32].reshape(-1, 32).mean(1)).mean()


def seam(tiles, whole, column):
    """What tiles add to the step at a border and beside it, where they fade, in levels of 255."""
    return max(step(tiles, c) - step(whole, c) for c in (column - 32, column, column + 32))


def test_seams_are_far_below_the_images_own_variation_and_a_hard_cut_is_not(file, monkeypatch):
    whole, tiles = decoded_with(file, tile=0), decoded_with(file, tile=256)
    columns = [192]  # 440 pixels are padded to 448, of which the first of two tiles takes 192
    variation = np.mean([np.abs(np.diff(whole[:, c - 16 : c + 16].mean(-1), axis=1)).mean() for c in columns])
    assert max(seam(tiles, whole, c) for c in columns) < 0.1 * variation
    near, far = np.abs(tiles - whole)[:, 128:256].mean(), np.abs(tiles - whole)[:, :128].mean()
    assert near < 2 * far + 0.1  # group norm sees other pixels; nothing happens where tiles meet
    monkeypatch.setattr(adapter_decode, "MARGIN", 0)
    cut = decoded_with(file, tile=256)
    assert max(seam(cut, whole, c) for c in columns) > 0.1 * variation  # the same measure does see a border


@pytest.mark.parametrize("settings", [{"renorm": "predicted"}, {"steps": 2}])
def test_every_setting_works_in_tiles_as_in_one_piece(file, photo, settings):
    whole, tiles = decoded_with(file, tile=0, **settings), decoded_with(file, tile=256, **settings)
    assert tiles.shape == photo.shape
    assert np.abs(tiles - whole).mean() < 0.2 * np.abs(whole - photo).mean()


def test_noise_is_drawn_once_for_each_step_and_not_for_each_tile(file, monkeypatch):
    drawn = []

    def counted(seeds, shape, *where):
        noise = seeded_noise(seeds, shape, *where)

        def one(step):
            drawn.append((tuple(shape[1:]), step))
            return noise(step)

        return one

    monkeypatch.setattr(adapter_decode, "seeded_noise", counted)
    decoded_with(file, tile=128, steps=3)
    assert len(drawn) == len(set(drawn)) > 2


def test_written_statistics_are_met_by_the_whole_image(file, photo):
    wanted = ImageStatistics.measure(photo)
    found = ImageStatistics.measure(decoded_with(file, tile=128, renorm="written", backbone="toy").astype(np.uint8))
    assert np.abs(np.subtract([*found.mean, *found.std], [*wanted.mean, *wanted.std])).max() < 1.5


def test_moments_of_parts_together_are_those_of_the_whole():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 50, 40) + torch.linspace(-1, 1, 50)[:, None]
    parts = [(len(p[0, 0]), p.mean((2, 3)), p.std((2, 3), correction=0)) for p in x.split((10, 25, 15), 2)]
    mean, std = merge_moments(parts)
    torch.testing.assert_close(mean, x.mean((2, 3)))
    torch.testing.assert_close(std, x.std((2, 3), correction=0))
    assert all(torch.equal(a, b) for a, b in zip(merge_moments(parts[:1]), parts[0][1:], strict=True))
    for whole, banded in zip(measure_shown([x]), measure_shown(x.split(7, 2)), strict=True):
        torch.testing.assert_close(whole, banded)


class Pointwise:
    """In an adapter's place: a latent of the preview's block means and the noise, the preview beside it, no context at all."""

    spec = types.SimpleNamespace(latent=types.SimpleNamespace(channels=3, stride=8))

    def __init__(self):
        torch.manual_seed(0)
        self.moments = MomentsHead(3, 3)
        self.moments.linear.weight.data = torch.randn(6, 3)

    def __call__(self, y_hat, quality, preview, *, steps, noise):
        assert preview.shape[-1] == 16 * y_hat.shape[-1]
        z = F.avg_pool2d(preview, 8) + 0.01 * noise(1)
        return Estimate(z_hat=z, features=z.abs(), z=z, mean=None, std=None)

    def noise_shape(self, height, width):
        return 3, height // 4, width // 4

    def to_pixels(self, z, quality, preview, noise):
        return F.interpolate(z, scale_factor=8) / 2 + preview / 2 + 0.1 * F.interpolate(noise, scale_factor=4)


def test_noise_moments_and_preview_are_those_of_the_whole(file):
    session = open_session()
    decoded, adapter = session.codec.decode(file), Pointwise()
    preview = session.codec.preview_tensor(decoded)
    plan, whole = (tiling.plan(decoded.height, decoded.width, side, adapter_decode.MARGIN) for side in (128, 0))
    assert len(plan) == 12 and len(whole) == 1
    with torch.inference_mode():
        parts, one = (adapter_decode.latent(adapter, decoded, preview, p, steps=2) for p in (plan, whole))
        torch.testing.assert_close(parts.z, one.z, rtol=0, atol=1e-4)
        noise = seeded_noise([decoded.seed], one.z.shape, "cpu", torch.float32)(1)
        torch.testing.assert_close(one.z, F.avg_pool2d(preview, 8) + 0.01 * noise, rtol=0, atol=1e-4)
        for got, wanted in zip((parts.mean, parts.std), adapter.moments(one.z, one.z.abs()), strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
        images = [adapter_decode.image(adapter, decoded, one, p).astype(int) for p in (plan, whole)]
    assert np.abs(images[0] - images[1]).max() <= 1


def test_a_value_that_is_not_finite_is_noticed_in_any_tile(file, monkeypatch):
    session = open_session()
    decoded, adapter = session.codec.decode(file), Pointwise()
    calls = iter(range(100))
    to_pixels = adapter.to_pixels
    monkeypatch.setattr(
        adapter, "to_pixels", lambda *given: to_pixels(*given) * (float("nan") if next(calls) == 5 else 1)
    )
    plan = tiling.plan(decoded.height, decoded.width, 128, adapter_decode.MARGIN)
    preview = session.codec.preview_tensor(decoded)
    with torch.inference_mode(), pytest.raises(FloatingPointError):
        found = adapter_decode.latent(adapter, decoded, preview, plan, steps=1)
        adapter_decode.image(adapter, decoded, found, plan)


def test_the_fingerprint_knows_the_tiles_but_not_their_reason(file):
    one, same, other = (fingerprints(open_session(tile=side), preview=False)(file) for side in (0, 448, 256))
    assert one == same != other
