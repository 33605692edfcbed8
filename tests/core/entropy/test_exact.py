"""The integer layer is exact at the extremes, in strips, with taps left out; training simulates what coding computes."""

import numpy as np
import pytest
import torch

from priorcodec.core.entropy import exact
from priorcodec.core.entropy.exact import CROSS, LIMIT, ONE, SQUARE, WEIGHT_BITS, ExactLayer, inner, pixel_shuffle
from priorcodec.core.entropy.integer import IntConv2d


def reference(a: np.ndarray, weight: np.ndarray, bias: np.ndarray, relu: bool) -> np.ndarray:
    """Python integers, position by position; a (h, w, c)."""
    c_out, _, k, _ = weight.shape
    padded = np.pad(a, ((k // 2, k // 2), (k // 2, k // 2), (0, 0))).transpose(2, 0, 1)
    h, w, _ = a.shape
    out = np.empty((h, w, c_out), dtype=object)
    for i in range(h):
        for j in range(w):
            for o in range(c_out):
                total = int((weight[o].astype(object) * padded[:, i : i + k, j : j + k]).sum()) + int(bias[o])
                value = (total + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS
                out[i, j, o] = max(0 if relu else -LIMIT, min(LIMIT, value))
    return out.astype(np.int64)


def extremes(kernel, seed=0):
    rng = np.random.default_rng(seed + kernel)
    a = rng.choice([-LIMIT, LIMIT, 0, 7], size=(3, 4, 6))
    weight = rng.integers(-LIMIT, LIMIT + 1, (5, 6, kernel, kernel)).astype(np.int16)
    return a.astype(np.int16), weight, rng.integers(-(2**31), 2**31, 5).astype(np.int32)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("strip", [1, 100, exact.MAX_GATHERED])
def test_equals_integer_arithmetic_at_the_extremes(kernel, relu, strip, monkeypatch):
    monkeypatch.setattr(exact, "MAX_GATHERED", strip)
    a, weight, bias = extremes(kernel)
    got = ExactLayer(weight, bias, relu=relu)(a)
    assert got.dtype == np.int16
    np.testing.assert_array_equal(got, reference(a.astype(object), weight, bias, relu))


def test_four_taps_on_a_checkerboard_are_all_nine():
    a, weight, bias = extremes(3)
    h, w, _ = a.shape
    odd = np.indices((h, w)).sum(0) % 2 == 1
    a[odd] = 0
    every, few = (
        ExactLayer(weight, bias, relu=False),
        ExactLayer(weight, bias, relu=False, reads=[(slice(0, 6), CROSS)]),
    )
    at = inner(h, w)[odd.ravel()]
    padded = np.pad(a, ((1, 1), (1, 1), (0, 0)))
    assert few.gather(padded, at).size * 9 == every.gather(padded, at).size * 4
    np.testing.assert_array_equal(few.product(few.gather(padded, at)), every(a)[odd])


def test_channels_may_be_read_at_different_taps():
    """As a pass reads earlier groups at nine positions and its own group at four."""
    a, weight, bias = extremes(3)
    h, w, _ = a.shape
    odd = np.indices((h, w)).sum(0) % 2 == 1
    a[odd, 4:] = 0
    layer = ExactLayer(weight, bias, relu=False, reads=[(slice(0, 4), SQUARE), (slice(4, 6), CROSS)])
    at, padded = inner(h, w)[odd.ravel()], np.pad(a, ((1, 1), (1, 1), (0, 0)))
    assert layer.gather(padded, at).shape == (len(at), 4 * 9 + 2 * 4)
    np.testing.assert_array_equal(layer.product(layer.gather(padded, at)), ExactLayer(weight, bias, relu=False)(a)[odd])


def test_pixel_shuffle_is_the_one_of_torch():
    a = np.arange(3 * 5 * 8).reshape(3, 5, 8)
    wanted = torch.nn.functional.pixel_shuffle(torch.from_numpy(a).permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)
    np.testing.assert_array_equal(pixel_shuffle(a), wanted.numpy())


def test_taps_are_rows_before_columns():
    assert SQUARE[1] == (-1, 0) and set(CROSS) < set(SQUARE)


@pytest.mark.parametrize("kernel", [1, 3])
def test_training_simulates_the_exact_layer(kernel):
    torch.manual_seed(0)
    layer = IntConv2d(8, 8, kernel)
    a = torch.randint(-500, 500, (8, 5, 6))
    with torch.no_grad():
        simulated = layer(a[None].float() / ONE)[0].double() * ONE
    tables = layer.tables()
    got = ExactLayer(tables["weight"], tables["bias"], relu=True)(a.permute(1, 2, 0).numpy()).transpose(2, 0, 1)
    difference = np.abs(simulated.numpy() - got)
    assert difference.max() <= 1  # float32 sums may fall on the other side of a half
    assert (difference == 0).mean() > 0.99
