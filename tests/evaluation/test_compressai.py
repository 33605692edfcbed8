"""PriorCodec in CompressAI's evaluation loop, which is written down here as its `eval_model` runs it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from priorcodec import ConfigError, open_session
from priorcodec.core.image import io as image_io
from priorcodec.evaluation.compressai import CompressAIModel
from tests.helpers import DEMO


@pytest.fixture(scope="module")
def session():
    with open_session("toy") as opened:
        yield opened


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    pixels = image_io.load(DEMO).pixels
    return torch.stack([torch.from_numpy(pixels[i : i + 100, 40:130]).permute(2, 0, 1) / 255 for i in (60, 200)])


@torch.no_grad()
def inference(model, x, half=False):
    """compressai.utils.eval_model.inference (CompressAI 1.2.8): pad, compress, decompress, unpad, PSNR and bpp."""
    device = next(model.parameters()).device
    if half:
        model, x = model.half(), x.half()
    x = x.to(device)
    right, below = -x.shape[-1] % 64, -x.shape[-2] % 64
    left, above = right // 2, below // 2
    pad = (left, right - left, above, below - above)
    encoded = model.compress(F.pad(x, pad))
    decoded = model.decompress(encoded["strings"], encoded["shape"])
    x_hat = F.pad(decoded["x_hat"], tuple(-side for side in pad))
    error = ((x * 255).round() - (x_hat * 255).clamp(0, 255).round()).pow(2).mean()
    bits = sum(len(s[0]) for s in encoded["strings"]) * 8.0
    return x_hat, 20 * math.log10(255) - 10 * float(torch.log10(error)), bits / (x.size(0) * x.size(2) * x.size(3))


@pytest.mark.parametrize("half", [False, True])
def test_their_loop_runs(session, images, half):
    low, high = (inference(CompressAIModel(session, quality=q, preview=True).eval(), images[:1], half) for q in (1, 5))
    assert low[0].shape == images[:1].shape
    assert 18 < low[1] < high[1] < 50 and 0 < low[2] < high[2] < 3


@pytest.mark.parametrize("preview", [False, True])
def test_a_batch_gives_the_files_and_images_of_the_session(session, images, preview):
    model = CompressAIModel(session, quality=2, preview=preview)
    out = model.compress(images)
    assert out["shape"] == (100, 90) and [len(strings) for strings in out["strings"]] == [2]
    x_hat = model.decompress(out["strings"], out["shape"])["x_hat"]
    for x, file, decoded in zip(images, out["strings"][0], x_hat, strict=True):
        pixels = (x * 255).round().byte().permute(1, 2, 0).numpy()
        assert file == session.encode(pixels, 2)
        wanted = (session.preview if preview else session.decode)(file, output="np")
        assert np.array_equal((decoded * 255).round().byte().permute(1, 2, 0).numpy(), wanted)


def test_another_shape_is_one_line(session):
    with pytest.raises(ConfigError, match=r"got images of shape \(3, 8, 8\), wanted \(b, 3, h, w\)"):
        CompressAIModel(session).compress(torch.zeros(3, 8, 8))
