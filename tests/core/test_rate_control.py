"""Rate targets: the search on made-up sizes against trying everything, then with the shipped and a tiny random encoder."""

import math
import random

import numpy as np
import pytest
import torch

from priorcodec import ConfigError, open_session
from priorcodec.core import rate_control
from priorcodec.core.codec import Codec
from priorcodec.core.container import Container
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.image import io as image_io
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.types import Encoded
from priorcodec.core.weights import save_encoder
from tests.helpers import DEMO


def sized(sizes):
    """Files of these sizes, one for each quality byte."""

    def write(byte):
        stream = Container(encoder_id=0, quality=byte, height=100, width=100, string=b"")
        return Encoded(data=bytes(sizes[byte]), container=stream, z_bits=0, y_bits=0, symbols_sha256="")

    return write


def curve(kind):
    """177 sizes as encoders make them (steps of 4, some fall) and as none should."""
    rng = random.Random(kind)
    wobble = {"smooth": 0, "wobbling": 8, "wild": 60}.get(kind, 0)
    grows = {
        "flat": lambda i: 200,
        "bent": lambda i: 100 + (i == 176) * 10**5,
        "kink": lambda i: 100 if i < 30 else 9000 + i,
    }.get(kind, lambda i: 230 * math.exp(0.0135 * i))
    return [4 * round((grows(i) + rng.uniform(-wobble, wobble)) / 4) + 3 for i in range(177)]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image_io.load(DEMO).pixels[100:228, 200:360]


@pytest.mark.parametrize("kind", ["smooth", "wobbling", "wild", "flat", "bent", "kink"])
def test_the_result_fits_and_is_the_best_among_its_neighbors(kind):
    sizes, written = curve(kind), []
    for target in {*np.geomspace(min(sizes), max(sizes) + 50, 60).astype(int).tolist(), *sizes[::3]}:
        try:
            found = rate_control.search(sized(sizes), target, 176)
        except ConfigError:
            assert min(sizes[: rate_control.NEIGHBORS + 1]) > target
            continue
        byte, size = found.encoded.container.quality, len(found.encoded.data)
        assert size == sizes[byte] <= target
        assert found.highest == (byte == 176) and found.hit == (size >= 0.97 * target)
        written.append(found.written)
        if sizes[176] <= target:
            assert byte == 176
        else:
            near = range(max(0, byte - rate_control.NEIGHBORS), min(176, byte + rate_control.NEIGHBORS) + 1)
            assert (size, byte) == max((sizes[b], b) for b in near if sizes[b] <= target)
            if kind == "smooth":
                assert size == max(s for s in sizes if s <= target)
    assert max(written) <= 2 + rate_control.GUESSES + 8 + 4 * rate_control.NEIGHBORS
    if kind in ("smooth", "wobbling"):
        assert np.mean(written) < 10


@pytest.mark.parametrize("target", [200, 300, 411])
def test_the_shipped_encoder_hits_from_below(codec, photo, target):
    runs = []
    hook = codec.transforms.g_a.register_forward_hook(lambda *_: runs.append(1))
    found = codec.encode_to(photo, target)
    hook.remove()
    assert len(runs) == 1
    assert len(found.encoded.data) <= target and found.hit and found.note() is None
    byte = found.encoded.container.quality
    assert codec.encode(photo, byte / QUALITY_STEPS).data == found.encoded.data
    assert codec.decode(found.encoded.data).symbols_sha256 == found.encoded.symbols_sha256
    near = [len(codec.encode(photo, b / QUALITY_STEPS).data) for b in range(byte - 2, byte + 3)]
    assert len(found.encoded.data) == max(size for size in near if size <= target)


def test_a_target_out_of_reach(codec, photo):
    low, high = (len(codec.encode(photo, quality).data) for quality in (0, 11))
    with pytest.raises(ConfigError, match=f"wanted 20 bytes .* files have {low} to {high} bytes .* bpp\\)") as caught:
        codec.encode_to(photo, 20)
    assert "\n" not in str(caught.value)
    found = codec.encode_to(photo, 10**6)
    assert found.highest and found.encoded.data == codec.encode(photo, 11).data
    note = found.note()
    assert note and f"{low} to {high} bytes" in note and "highest quality" in note and "\n" not in note


def test_the_statistics_count(codec, photo):
    plain, found = codec.encode_to(photo, 300), codec.encode_to(photo, 300, statistics=True)
    assert found.encoded.container.segments and len(found.encoded.data) <= 300
    assert found.encoded.container.quality < plain.encoded.container.quality


def test_between_two_qualities_too_far_apart_it_says_so():
    found = rate_control.search(sized(curve("kink")), 5000, 176)
    note = found.note()
    assert not found.hit and not found.highest and note and "103 bytes" in note and "97.9% less" in note


def test_a_random_encoder_against_trying_everything(tmp_path):
    torch.manual_seed(0)
    model = ImageEncoder(EncoderConfig(n8=8, n16=8, m=12, groups=(4, 8), m_h=4, n=8, depth8=1, depth16=1, levels=3))
    model.log_gain.data += 4  # untrained features are small: without this every symbol is zero
    save_encoder(model, tmp_path / "encoder.safetensors", {})
    codec = Codec(tmp_path / "encoder.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    sizes = [len(codec.encode(pixels, byte / QUALITY_STEPS).data) for byte in range(33)]
    assert max(sizes) > 1.3 * min(sizes)
    for target in np.linspace(sizes[0], sizes[-1] + 10, 8).astype(int).tolist():
        found = codec.encode_to(pixels, target)
        byte = found.encoded.container.quality
        near = sizes[max(0, byte - rate_control.NEIGHBORS) : byte + rate_control.NEIGHBORS + 1]
        assert len(found.encoded.data) == sizes[byte] <= target
        assert sizes[byte] == max(size for size in near if size <= target) or byte == 32


def test_the_session_takes_bytes_or_bits_per_pixel(photo):
    session = open_session()
    data = session.encode(photo, bpp=0.12)
    assert 0.97 * 0.12 <= 8 * len(data) / (photo.shape[0] * photo.shape[1]) <= 0.12
    assert session.encode(photo, max_bytes=int(0.12 * photo.shape[0] * photo.shape[1] / 8)) == data
    for wrong in ({"bpp": 0.1, "max_bytes": 9}, {"bpp": 0}, {"bpp": math.nan}, {"max_bytes": -1}):
        with pytest.raises(ConfigError, match="wanted"):
            session.encode(photo, **wrong)


def test_bits_that_make_no_byte_are_named():
    with pytest.raises(ConfigError, match="0.3 bits for each of 1x2 pixels are less than one byte"):
        rate_control.target_bytes(None, 0.3, 2, 1)
