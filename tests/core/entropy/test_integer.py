"""The trainable integer layer: gradients, bounds, and freezing that never wraps."""

import numpy as np
import pytest
import torch

from priorcodec.core.entropy.exact import MAX_FAN_IN
from priorcodec.core.entropy.integer import IntConv2d, to_integers
from priorcodec.core.errors import WeightsError
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder

TINY = EncoderConfig(n8=8, n16=8, m=8, groups=(2, 6), m_h=4, n=8, depth8=1, depth16=1, levels=2)


def test_gradients_pass_the_rounding():
    layer = IntConv2d(4, 4)
    layer(torch.rand(1, 4, 3, 3)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_a_fan_in_beyond_exactness_is_refused():
    assert MAX_FAN_IN * 2**15 * 2**15 + 2**31 < 2**53
    with pytest.raises(ValueError, match="exactness"):
        IntConv2d(1 << 17, 1, 3)


@pytest.mark.parametrize("value", [32767.4, -32768.4, 0.5, -0.5])
def test_what_fits_is_rounded_half_up(value):
    assert to_integers("x", torch.tensor([value]), np.int16) == [np.floor(value + 0.5)]


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("z_mean", 200.0, "z_mean holds 51200 in fixed point, wanted -32768 to 32767"),
        ("z_mean", -200.0, "z_mean holds -51200"),
        ("z_mean", float("nan"), "z_mean holds values that are not finite"),
        ("quality_bias", 128.0, "quality_bias holds 32768"),
        ("z_index", float("inf"), "z_index holds values that are not finite"),
        ("z_index", float("nan"), "z_index holds values that are not finite"),
        ("other.1.context.bias", 2**13 + 0.0, "other.1.context.bias holds 2147483648"),
        ("anchor.0.first.bias", float("-inf"), "anchor.0.first.bias holds values that are not finite"),
        ("h_s.1.weight", float("nan"), "h_s.1.weight holds values that are not finite"),
        ("h_s.1.weight", 1e9, None),  # clamped, as training clamps it
    ],
)
def test_freezing_refuses_what_would_wrap(tmp_path, name, value, says):
    """`z_mean` 200 used to become -56: no file is written instead."""
    torch.manual_seed(0)
    model, path = ImageEncoder(TINY), tmp_path / "encoder.safetensors"
    model.entropy.get_parameter(name).data.view(-1)[0] = value
    if says is None:
        save_encoder(model, path, {})
        return
    with pytest.raises(WeightsError, match=says) as caught:
        save_encoder(model, path, {})
    assert "\n" not in str(caught.value) and not path.exists()


def test_freezing_refuses_a_transform_beyond_half_precision(tmp_path):
    model = ImageEncoder(TINY)
    model.g_a[1].weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(WeightsError, match="g_a.1.weight is not finite in half precision"):
        save_encoder(model, tmp_path / "encoder.safetensors", {})
