"""The shipped encoder on real pixels: sizes, rates, foreign and damaged files."""

import pickle
import random
import zlib

import numpy as np
import pytest
import torch

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.errors import ConfigError, ImageError, StreamError
from priorcodec.core.image import io as image_io
from tests.helpers import DEMO


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image_io.load(DEMO).pixels[:256, :384]


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (65, 257), (64, 64), (130, 3)])
def test_any_size_comes_back_in_its_size(codec, photo, size):
    pixels = np.resize(photo, (*size, 3))
    encoded = codec.encode(pixels, 6.0)
    decoded = codec.decode(encoded.data)
    assert decoded.symbols_sha256 == encoded.symbols_sha256
    assert codec.preview(decoded).shape == pixels.shape


def test_size_and_fidelity_rise_with_quality(codec, photo):
    sizes, errors = [], []
    for quality in range(codec.levels):
        encoded = codec.encode(photo, quality)
        sizes.append(len(encoded.data))
        preview = codec.preview(codec.decode(encoded.data))
        errors.append(np.mean((preview.astype(float) - photo) ** 2))
    assert sizes == sorted(set(sizes))
    assert errors == sorted(errors, reverse=True)


def test_qualities_between_levels_lie_between(codec, photo):
    low, middle, high = (len(codec.encode(photo, q).data) for q in (6.0, 6.5, 7.0))
    assert low < middle < high


@pytest.mark.parametrize("quality", [0.0, 4.5, 11.0])
def test_the_file_is_what_the_tables_say_plus_at_most_17_bytes(codec, photo, quality):
    encoded = codec.encode(photo, quality)
    overhead = container.overhead_bytes(encoded.container)
    estimate = (encoded.z_bits + encoded.y_bits) / 8
    assert overhead <= 14
    # a state that starts empty costs up to two bytes, and what it ends with is rounded up to whole bytes
    assert -1 <= len(encoded.data) - overhead - estimate <= 3 + 1e-3 * estimate


@pytest.mark.parametrize("quality", [-0.1, 11.1, float("nan")])
def test_an_impossible_quality_is_refused(codec, photo, quality):
    with pytest.raises(ConfigError, match="wanted a number from 0 to 11"):
        codec.encode(photo, quality)


def test_a_foreign_encoder_is_named(codec, photo):
    content = codec.encode(photo, 0).container
    foreign = container.Container(**{**vars(content), "encoder_id": codec.id ^ 1})
    with pytest.raises(StreamError, match=f"encoder {codec.id ^ 1:08x}, or is damaged; this is encoder {codec.id:08x}"):
        codec.decode(container.pack(foreign))


def test_a_thousand_mutated_files_are_refused_in_one_line(codec, photo):
    rng = random.Random(0)
    files = [codec.encode(photo[: 40 + 9 * i, : 50 + 7 * i], i).data for i in range(4)]
    for case in range(1000):
        data = bytearray(rng.choice(files))
        match case % 4:
            case 0:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                del data[rng.randrange(len(data)) :]
            case 2:
                data += rng.randbytes(rng.randrange(1, 40))
            case 3:
                head = rng.randrange(1, 20)
                data[:head] = rng.choice([f for f in files if f[:head] != bytes(data[:head])] or [b"\0" * 40])[:head]
                if bytes(data) in files:
                    continue
        with pytest.raises(StreamError) as caught:
            codec.decode(bytes(data))
        assert "\n" not in str(caught.value)


def test_forged_strings_under_a_good_checksum_never_crash(codec, photo):
    rng = random.Random(1)
    stream = codec.encode(photo[:64, :64], 2).container
    for _ in range(50):
        forged = {**vars(stream), "string": rng.randbytes(rng.randrange(96))}
        try:
            codec.decode(container.pack(container.Container(**forged)))
        except StreamError as error:
            assert "\n" not in str(error)


def test_a_header_bomb_allocates_nothing(codec, photo):
    stream = codec.encode(photo[:64, :64], 0).container
    bomb = container.pack(container.Container(**{**vars(stream), "height": 65535, "width": 65535}))
    with pytest.raises(StreamError, match="65535x65535"):
        codec.decode(bomb)


@pytest.mark.parametrize("size", [(65536, 1), (1, 65536)])
def test_a_side_beyond_the_format_is_named_before_any_work(codec, size):
    with pytest.raises(
        ImageError, match=f"{size[1]}x{size[0]}, but a .gic file takes sides of at most 65535"
    ) as caught:
        codec.encode(np.zeros((*size, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_a_forged_strip_of_two_million_pixels_is_refused_at_once(codec, photo):
    """One pixel wide passed `max_pixels` once, took 5.7 GiB and minutes: padding makes it 64 wide."""
    body = b"GIC\x02" + bytes([codec.id & 0xFF, 176]) + b"\x01" + b"\x80\x89\x7a" + b"\1" * 12_900
    data = body + (zlib.crc32(body) ^ codec.id).to_bytes(4, "little")
    with pytest.raises(StreamError, match="width is 2000000, wanted a whole number from 1 to 65535"):
        codec.reader.read(data)


def test_the_tensor_and_the_picture_of_a_preview_agree(codec, photo):
    decoded = codec.decode(codec.encode(photo, 2).data)
    x = codec.preview_tensor(decoded)
    assert x.shape == (1, 3, 256, 384)
    np.testing.assert_array_equal(image_io.to_pixels(image_io.crop(x, *photo.shape[:2])), codec.preview(decoded))


def test_the_perceptual_preview_is_another_image_of_the_other_network(codec, photo):
    decoded = codec.decode(codec.encode(photo, 6).data)
    plain, perceptual = codec.preview(decoded), codec.preview(decoded, perceptual=True)
    assert perceptual.shape == plain.shape and not np.array_equal(perceptual, plain)
    with torch.inference_mode():
        x = codec.transforms.g_p(decoded.y_hat, torch.tensor([decoded.quality]))
    np.testing.assert_array_equal(image_io.to_pixels(image_io.crop(x, *photo.shape[:2])), perceptual)


def test_records_hold_data_only(codec, photo):
    """No network, no codec inside: what a worker process would have to pickle stays small."""
    encoded = codec.encode(photo, 1)
    decoded = codec.decode(encoded.data)
    assert len(pickle.dumps(encoded)) < len(encoded.data) * 2 + 2000
    assert len(pickle.dumps(decoded)) < decoded.y_hat.numel() * 4 + len(encoded.data) + 5000


@pytest.mark.parametrize("array", [np.zeros((8, 8, 3)), np.zeros((8, 8, 3), np.uint16), np.zeros((8, 8, 4), np.uint8)])
def test_an_array_that_is_no_image_is_refused(codec, array):
    with pytest.raises(ImageError, match=r"wanted uint8 \(h, w, 3\)"):
        codec.encode(array)
