"""The latent bridge: any stride, the mean latent or the preview when fresh, quality as an input."""

from dataclasses import replace

import pytest
import torch

from priorcodec import AdapterError, LatentSpace
from priorcodec.adapters.bridge import LatentPredictor

SPACE = LatentSpace(channels=4, stride=8, scale=1.0, mean=(1.0, -2.0, 0.5, 0.0), std=(1.0, 2.0, 3.0, 4.0))
SIZES = {"width": 8, "depth": 1, "stem_width": 8, "stem_depth": 1}


@pytest.mark.parametrize("stride", [1, 4, 8, 16, 32, 64])
def test_lands_on_the_latent_grid_and_starts_at_the_mean(stride):
    bridge = LatentPredictor(6, 8, replace(SPACE, stride=stride), **SIZES)
    z = bridge(torch.randn(2, 6, 4, 8), torch.tensor([0.0, 7.0]), torch.rand(2, 3, 64, 128))[0]
    assert z.shape == (2, 4, 4 * 16 // stride, 8 * 16 // stride)
    assert torch.equal(z, torch.tensor(SPACE.mean)[:, None, None].expand_as(z))


@pytest.mark.parametrize("name", ["nano_pixel", "nano_dit"])
def test_a_fresh_one_answers_the_preview_exactly_where_the_latent_is_pixels(name, make, features):
    backbone, adapter = make(name)
    y_hat, quality, preview = features
    z_hat = adapter.bridge(y_hat, quality, preview)[0]
    assert torch.equal(z_hat, backbone.to_latents(preview))
    assert torch.equal(backbone.to_pixels(z_hat), preview)


@pytest.mark.parametrize(("stride", "scale", "shift"), [(1, 1.0, 0.0), (4, 0.5, 0.25), (16, 3.0, -0.1)])
def test_pixels_of_any_stride_scale_and_shift(stride, scale, shift):
    channels, preview = 3 * stride**2, torch.rand(2, 3, 64, 128)
    one = (0.5,) * channels
    space = LatentSpace(channels=channels, stride=stride, scale=scale, shift=shift, mean=one, std=one, pixels=True)
    z = LatentPredictor(6, 8, space, **SIZES)(torch.randn(2, 6, 4, 8), torch.tensor([0.0, 7.0]), preview)[0]
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(z / scale + shift, stride), preview)


@pytest.mark.parametrize("stride", [3, 0, 128])
def test_other_strides_are_refused(stride):
    with pytest.raises(AdapterError, match="a power of two from 1 to 64"):
        LatentPredictor(6, 8, replace(SPACE, stride=stride), **SIZES)


def test_quality_features_and_preview_all_count_once_it_is_trained():
    bridge = LatentPredictor(6, 8, SPACE, **SIZES)
    torch.nn.init.normal_(bridge.tail.weight)
    torch.nn.init.normal_(bridge.y_branch.conv.weight)
    y, low, high, x = torch.randn(1, 6, 4, 4), torch.tensor([0.0]), torch.tensor([7.0]), torch.rand(1, 3, 64, 64)
    assert not torch.equal(bridge(y, low, x)[0], bridge(y, high, x)[0])
    assert not torch.equal(bridge(y, low, x)[0], bridge(-y, low, x)[0])
    assert not torch.equal(bridge(y, low, x)[0], bridge(y, low, -x)[0])


def test_mean_and_std_are_the_backbones_and_not_stored():
    assert not {"mean", "std"} & set(LatentPredictor(6, 8, SPACE, **SIZES).state_dict())
