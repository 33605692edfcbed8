"""The integer convolution is exact, and training simulates exactly what coding computes."""

import numpy as np
import pytest
import torch

from priorcodec.core.entropy.integer import LIMIT, ONE, WEIGHT_BITS, IntConv2d, exact_conv


def reference(a: np.ndarray, weight: np.ndarray, bias: np.ndarray, relu: bool) -> np.ndarray:
    """Python integers, position by position."""
    c_out, _, k, _ = weight.shape
    padded = np.pad(a, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    _, h, w = a.shape
    out = np.empty((c_out, h, w), dtype=object)
    for o in range(c_out):
        for i in range(h):
            for j in range(w):
                total = int((weight[o].astype(object) * padded[:, i : i + k, j : j + k]).sum()) + int(bias[o])
                value = (total + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS
                out[o, i, j] = max(0 if relu else -LIMIT, min(LIMIT, value))
    return out.astype(np.float64)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("relu", [True, False])
def test_equals_integer_arithmetic_at_the_extremes(kernel, relu):
    rng = np.random.default_rng(kernel + relu)
    a = rng.choice([-LIMIT, LIMIT, 0, 7], size=(6, 3, 4)).astype(object)
    weight = rng.integers(-LIMIT, LIMIT + 1, (5, 6, kernel, kernel)).astype(np.int16)
    bias = rng.integers(-(2**31), 2**31, 5).astype(np.int32)
    got = exact_conv(torch.tensor(a.astype(np.float64)), torch.tensor(weight), torch.tensor(bias), relu=relu)
    np.testing.assert_array_equal(got.numpy(), reference(a, weight, bias, relu))


@pytest.mark.parametrize("kernel", [1, 3])
def test_training_simulates_the_exact_layer(kernel):
    torch.manual_seed(0)
    layer = IntConv2d(8, 8, kernel)
    a = torch.randint(-500, 500, (8, 5, 6)).double()
    with torch.no_grad():
        simulated = layer(a[None].float() / ONE)[0].double() * ONE
    tables = layer.tables()
    exact = exact_conv(a, tables["weight"], tables["bias"], relu=True)
    assert (simulated - exact).abs().max() <= 1  # float32 sums may fall on the other side of a half
    assert (simulated == exact).double().mean() > 0.99


def test_gradients_pass_the_rounding():
    layer = IntConv2d(4, 4)
    layer(torch.rand(1, 4, 3, 3)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_a_fan_in_beyond_exactness_is_refused():
    with pytest.raises(ValueError, match="exactness"):
        IntConv2d(1 << 17, 1, 3)
