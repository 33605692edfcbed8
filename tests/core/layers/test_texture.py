"""The texture layer: exact values, a step that is controlled, and closed to damaged bytes."""

import numpy as np
import pytest

from priorcodec.core.entropy.exact import ONE
from priorcodec.core.errors import StreamError
from priorcodec.core.layers import texture
from priorcodec.core.layers.semantic import SemanticTables
from tests.core.entropy.reference import InvalidFile
from tests.core.layers import reference
from tests.core.layers.test_structure import drawn, flipped


@pytest.fixture(scope="module")
def model():
    return SemanticTables().texture


def values_for(labels, seed=0, spread=2.0):
    dice = np.random.default_rng(seed)
    return dice.normal(0, spread, (labels.max() + 1, texture.CHANNELS))


@pytest.mark.parametrize("step", [0, 4, 10])
def test_values_come_back_within_half_a_step(model, step):
    labels = drawn(20, 30, 9, 1)
    values = values_for(labels)
    data = model.encode(values, texture.areas(labels), step)
    found, got = model.decode(data, texture.areas(labels))
    assert got == step
    assert np.abs(found / ONE - values).max() <= (texture.STEPS[step] / 2 + 1) / ONE
    np.testing.assert_array_equal(found, reference.read_values(reference.tables(), data, labels))


def test_a_larger_step_is_a_smaller_layer(model):
    labels = drawn(20, 30, 9, 1)
    sizes = [len(model.encode(values_for(labels), texture.areas(labels), step)) for step in (0, 3, 6, 9)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 2


def test_extreme_values_are_clamped(model):
    labels = drawn(8, 8, 32, 2, side=1)
    values = values_for(labels, spread=1e6)
    found, _ = model.decode(model.encode(values, texture.areas(labels), 10), texture.areas(labels))
    assert np.abs(found).max() <= 32767


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "step is missing"), (b"\x0b", "step is 11"), (b"\4\1\0", "zero byte")]
)
def test_wrong_beginnings_are_refused(model, data, message):
    with pytest.raises(StreamError, match=message):
        model.decode(data, np.array([4, 5]))


def test_damage_is_refused_or_gives_other_values(model):
    labels = drawn(12, 20, 4, 3)
    areas = texture.areas(labels)
    data = model.encode(values_for(labels), areas)[:40]
    refused = 0
    bad = [data[:n] for n in range(len(data))] + [data + b"\1", *flipped(data)]
    for one in bad:
        try:
            found, _ = model.decode(one, areas)
            np.testing.assert_array_equal(found, reference.read_values(reference.tables(), one, labels))
        except StreamError:
            refused += 1
            with pytest.raises(InvalidFile):
                reference.read_values(reference.tables(), one, labels)
    assert refused > 0.9 * len(bad)


def test_measure_and_painted_agree_on_a_plane():
    """A region whose Y is a plane along its columns is painted as that plane."""
    labels = np.zeros((6, 8), np.uint8)
    colors = np.zeros((6, 8, 3))
    colors[..., 0] = 128 + 5 * np.arange(8)
    values = texture.measure(labels, colors, np.zeros((6, 8, texture.CHANNELS - texture.PLANE)))
    planes = texture.painted(labels, np.round(values * ONE).astype(np.int32))
    np.testing.assert_allclose(planes[0] * texture.UNIT[0] + 128, colors[..., 0], atol=0.2)
    assert texture.measure(labels, colors + (0, 12, 0), np.zeros((6, 8, 11)))[0, 1] == pytest.approx(1)
