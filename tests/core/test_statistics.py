"""Moments of latents and statistics of images: measured, written in eight bytes, read back, and moved to."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.errors import ImageError, StreamError
from priorcodec.core.image import io as image_io
from priorcodec.core.moments import match_moments
from priorcodec.core.statistics import ImageStatistics
from tests.golden.check import FOLDER as GOLDEN
from tests.helpers import DEMO

means = st.floats(0, 255)
spreads = st.floats(0, 127.5)
statistics = st.builds(ImageStatistics, mean=st.tuples(means, means, means), std=st.tuples(spreads, spreads, spreads))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image_io.load(DEMO).pixels[60:160, 40:170]


def values(s: ImageStatistics) -> np.ndarray:
    return np.array([*s.mean, *s.std])


def test_the_latent_has_the_moments_asked_for():
    torch.manual_seed(0)
    z, mean, std = torch.randn(2, 4, 8, 9) * 3 + 1, torch.randn(2, 4), torch.rand(2, 4) + 0.1
    moved = match_moments(z, mean, std)
    torch.testing.assert_close(moved.mean((2, 3)), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(moved.std((2, 3), correction=0), std, rtol=1e-4, atol=0)
    torch.testing.assert_close(match_moments(moved, z.mean((2, 3)), z.std((2, 3), correction=0)), z)
    assert match_moments(z.bfloat16(), mean, std).dtype == torch.bfloat16


def test_a_flat_channel_takes_the_mean_and_stays_flat():
    moved = match_moments(torch.full((1, 1, 4, 4), 0.7), torch.tensor([[0.2]]), torch.tensor([[5.0]]))
    torch.testing.assert_close(moved, torch.full((1, 1, 4, 4), 0.2), rtol=0, atol=1e-3)


def test_measured_as_jpeg_converts(photo):
    ycc = np.asarray(Image.fromarray(photo).convert("YCbCr")).astype(float).reshape(-1, 3)  # Pillow rounds each pixel
    wanted = [*ycc.mean(0), *ycc.std(0)]
    np.testing.assert_allclose(values(ImageStatistics.measure(photo)), wanted, atol=0.6)


@pytest.mark.parametrize("color,mean", [((0, 0, 0), (0, 128, 128)), ((255, 255, 255), (255, 128, 128))])
def test_a_flat_image_of_one_pixel_or_more(color, mean):
    for size in ((1, 1), (3, 2)):
        measured = ImageStatistics.measure(np.full((*size, 3), color, np.uint8))
        assert measured.mean == pytest.approx(mean) and measured.std == pytest.approx((0, 0, 0), abs=1e-5)


@given(statistics)
def test_written_values_come_back_within_their_steps(s):
    data = s.pack()
    assert len(data) == 8
    error = np.abs(values(ImageStatistics.unpack(data)) - values(s))
    gray = np.abs(np.array(s.mean[1:]) - 128)
    steps = [
        255 / 65535,
        *(2 * np.sqrt(gray / 128) + 1 / 128),
        127.5 / 65535,
        *(np.sqrt(np.array(s.std[1:]) / 127.5) + 1e-2),
    ]
    assert (error <= 0.51 * np.array(steps)).all(), (error, steps)


@given(st.binary(min_size=8, max_size=8))
def test_any_eight_bytes_mean_something_and_are_written_back_the_same(data):
    read = ImageStatistics.unpack(data)
    assert all(0 <= m <= 255 for m in read.mean) and all(0 <= s <= 127.5 for s in read.std)
    assert read.pack() == data


def test_the_bytes_are_those_of_the_table():
    s = ImageStatistics(mean=(255.0, 128.0, 128 - 32.0), std=(127.5, 0.0, 127.5 / 4))
    assert s.pack() == struct.pack("<HHBBBB", 65535, 65535, 128, 64, 0, 128)


@given(st.binary(max_size=20).filter(lambda data: len(data) != 8))
def test_another_number_of_bytes_is_refused_in_one_line(data):
    with pytest.raises(StreamError, match=f"have {len(data)} bytes, wanted 8"):
        ImageStatistics.unpack(data)


def test_apply_moves_an_image_to_the_statistics(photo):
    """A darker, paler, tinted copy comes back to the statistics of the original."""
    original = ImageStatistics.measure(photo)
    x = image_io.to_tensor(photo)
    changed = (0.7 * x - 0.1) + torch.tensor([0.06, 0.0, -0.05]).view(1, 3, 1, 1)
    before = values(ImageStatistics.measure(image_io.to_pixels(changed)))
    after = values(ImageStatistics.measure(image_io.to_pixels(original.apply(changed))))
    assert np.abs(before - values(original)).max() > 10
    assert np.abs(after - values(original)).max() < 1
    assert np.abs(image_io.to_pixels(original.apply(x)).astype(int) - photo.astype(int)).max() <= 1
    np.testing.assert_allclose(original.apply(changed.numpy()), original.apply(changed).numpy(), rtol=0, atol=1e-5)


def test_apply_changes_contrast_by_a_factor_of_two_at_most_and_not_where_there_is_none():
    gray = ImageStatistics(mean=(128.0, 128.0, 128.0), std=(100.0, 0.0, 0.0))
    flat = torch.zeros(1, 3, 8, 8)
    torch.testing.assert_close(gray.apply(flat), flat.add(1 / 255), rtol=0, atol=1e-4)
    ramp = torch.linspace(-0.1, 0.1, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    assert gray.apply(ramp).std() / ramp.std() == pytest.approx(2, rel=1e-3)
    calm = ImageStatistics(mean=(128.0, 128.0, 128.0), std=(0.0, 0.0, 0.0))
    assert calm.apply(ramp).std() / ramp.std() == pytest.approx(0.5, rel=1e-3)


def test_apply_keeps_dtype_and_treats_each_image_alone(photo):
    wanted, x = ImageStatistics.measure(photo), torch.rand(2, 3, 9, 7) * 2 - 1
    torch.testing.assert_close(wanted.apply(x), torch.cat([wanted.apply(x[:1]), wanted.apply(x[1:])]))
    assert wanted.apply(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_only_pixels_are_measured(array):
    with pytest.raises(ImageError, match="wanted uint8"):
        ImageStatistics.measure(array)


def test_the_file_grows_by_the_counted_bytes_alone(codec, photo):
    """Type, length, eight bytes, check; then the latent's type and length; the string is the same."""
    for quality in (0.0, 3.0):
        plain, full = codec.encode(photo, quality), codec.encode(photo, quality, statistics=True)
        framing = 2 + (len(plain.container.string) >= 128)
        assert len(full.data) - len(plain.data) == 2 + 8 + 4 + framing
        assert full.container.string == plain.container.string
        assert container.overhead_bytes(plain.container) <= 14 and plain.container.segments == ()
        assert codec.decode(plain.data).statistics is None
        read = codec.decode(full.data)
        assert read.statistics == ImageStatistics.unpack(ImageStatistics.measure(photo).pack())
        assert torch.equal(read.y_hat, codec.decode(plain.data).y_hat)


def test_plain_files_are_as_before():
    """The golden files hold no statistics: read and packed again they are the same bytes, without a flag."""
    files = sorted(GOLDEN.glob("*.gic"))
    assert files
    for file in files:
        data = file.read_bytes()
        assert container.pack(container.unpack(data)) == data and data[3] == container.VERSION


@pytest.mark.parametrize("size", [0, 7, 9])
def test_statistics_of_another_size_are_refused_in_one_line(codec, photo, size):
    stream = codec.encode(photo, 0).container
    segment = container.Segment(type=container.STATISTICS, data=bytes(size))
    data = container.pack(container.Container(**{**vars(stream), "segments": (segment,)}))
    for read in (lambda file: codec.decode(file).statistics, container.describe):
        with pytest.raises(StreamError, match=f"statistics have {size} bytes, wanted 8") as caught:
            read(data)
        assert "\n" not in str(caught.value)


def test_info_shows_them(codec, photo):
    full = codec.encode(photo, 0, statistics=True)
    shown = str(container.describe(full.data)["statistics"])
    mean = ImageStatistics.measure(photo).mean[0]
    assert shown.startswith(f"Y {mean:.1f} +- ") and "Cb" in shown and "Cr" in shown
    assert container.describe(codec.encode(photo, 0).data)["statistics"] == "none"
