"""Images nobody photographs: flat, saturated, one pixel, all width, noise. Each codes, reads back and shows at any quality."""

import numpy as np
import pytest

from priorcodec.core.codec import Codec

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
CHECKS = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2).astype(np.uint8) % 2 * 255
IMAGES = {
    "black": np.zeros((64, 64, 3), np.uint8),
    "white": np.full((64, 64, 3), 255, np.uint8),
    "gray": np.full((33, 64, 3), 128, np.uint8),
    "red": np.full((64, 40, 3), (255, 0, 0), np.uint8),
    "halves": np.repeat(np.array([[0], [255]], np.uint8), 32, 0)[..., None].repeat(64, 1).repeat(3, 2),
    "pixel": np.full((1, 1, 3), (0, 255, 0), np.uint8),
    "row": NOISE[:1].repeat(20, 1),
    "column": NOISE[:, :1].repeat(20, 0),
    "noise": NOISE,
    "checks": CHECKS,
}


@pytest.fixture(scope="module")
def codec():
    return Codec()


@pytest.mark.parametrize("quality", [0.0, 4.5, 11.0])
@pytest.mark.parametrize("name", IMAGES)
def test_coded_read_back_and_shown(codec, name, quality):
    pixels = IMAGES[name]
    encoded = codec.encode(pixels, quality)
    decoded = codec.decode(encoded.data)
    shown = codec.preview(decoded)
    assert decoded.symbols_sha256 == encoded.symbols_sha256
    assert shown.shape == pixels.shape and bool(codec.preview_tensor(decoded).isfinite().all())
    if name in ("black", "white", "gray"):
        assert np.abs(shown.astype(float) - pixels).mean() < (24 if quality == 0 else 16)


@pytest.mark.parametrize("quality", range(12))
@pytest.mark.parametrize("value", [0, 128, 255])
def test_the_cheapest_images_pass_the_least_length_of_a_file(codec, value, quality):
    """What refuses forged headers refuses no real file: flat images spend the fewest bits for their size."""
    encoded = codec.encode(np.full((256, 320, 3), value, np.uint8), quality)
    assert codec.reader.read(encoded.data)[2] == encoded.symbols_sha256
