"""The trainable entropy model: its simulation is what the integers do, in the order of decoding; tables come back."""

import numpy as np
import pytest
import torch

from priorcodec.core.entropy.entropy_model import EntropyModel, packed, unpacked
from priorcodec.core.entropy.exact import ONE
from priorcodec.core.entropy.frozen import FrozenEntropyModel
from priorcodec.core.entropy.tables import CERTAIN, QUALITY_STEPS, gaussian_tables

M, M_H, N, LEVELS, GROUPS = 12, 4, 8, 12, (2, 4, 6)
QUALITY = 37


def anchors(h, w):
    """Checkerboard mask (h, w): True where a position is decoded in the first pass."""
    i, j = torch.arange(h), torch.arange(w)
    return (i[:, None] + j) % 2 == 0


def random_model():
    torch.manual_seed(3)
    model = EntropyModel(M, M_H, N, LEVELS, GROUPS).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2).add_(0.05 * torch.randn_like(p))
        model.quality_bias.normal_(0, 0.3)
    return model


@pytest.fixture
def model():
    """On the grid of the integers, as a frozen one comes back."""
    model = random_model()
    model.load_tables(model.tables())
    return model


@torch.no_grad()
def simulated(model, y, z, level):
    quality = torch.tensor([level], dtype=torch.float64)
    z_mean, _ = model.hyper_parameters(quality)
    z_hat = torch.floor(z - z_mean + 0.5) + z_mean
    return z_hat, *model(y, model.features(z_hat, quality))


def random_values(h=8, w=12):
    generator = torch.Generator().manual_seed(1)
    y = 3 * torch.randn(1, M, h, w, dtype=torch.float64, generator=generator)
    return y, torch.randn(1, M_H, h // 4, w // 4, dtype=torch.float64, generator=generator)


def test_packing_is_undone():
    x = torch.randn(2, 3, 4, 8)
    assert torch.equal(unpacked(packed(x, False), packed(x, True)), x)
    assert torch.equal(unpacked(packed(x, False), torch.zeros(2, 3, 4, 4)), torch.where(anchors(4, 8), x, 0.0))


def test_the_simulation_equals_the_exact_integers(model):
    y, z = random_values()
    _, symbols, mean, index = simulated(model, y, z, QUALITY / QUALITY_STEPS)
    exact, passes = FrozenEntropyModel(model.tables() | gaussian_tables()), []
    y_hat_q, _ = exact.quantize(
        y[0].numpy(), z[0].numpy(), QUALITY, lambda *one: passes.append([np.array(part) for part in one[:2]])
    )
    assert len(passes) == 1 + 2 * len(GROUPS)
    np.testing.assert_array_equal(y_hat_q, (symbols + mean)[0].numpy())
    start, seen = 0, []
    for group, count in enumerate(GROUPS):
        for odd in (False, True):
            for part, wanted in zip(passes[1 + 2 * group + odd], (symbols, index), strict=True):
                half = packed(wanted[:, start : start + count], odd)[0].reshape(count, -1)  # row by row, as coded
                np.testing.assert_array_equal(part, torch.floor(half + 0.5).numpy())
            seen.append(passes[1 + 2 * group + odd][1])
        start += count
    assert len(np.unique(np.concatenate([part.ravel() for part in seen]))) > 5


@pytest.mark.parametrize("channel, row, column", [(3, 2, 3), (3, 2, 2), (0, 4, 4), (11, 5, 4)])
def test_parameters_depend_on_earlier_values_only(model, channel, row, column):
    """A change of one value changes no parameter of what is decoded before it, or together with it."""
    model.certain = 0  # a value that is zero anyway changes nothing
    y, z = random_values(8, 8)
    _, _, mean, index = simulated(model, y, z, 0.0)
    changed = y.clone()
    changed[0, channel, row, column] += 12
    _, _, new_mean, new_index = simulated(model, changed, z, 0.0)
    differs = ((new_mean - mean).abs() > 1e-12) | ((new_index - index).abs() > 1e-12)
    group = next(g for g in range(len(GROUPS)) if channel < sum(GROUPS[: g + 1]))
    start, end = sum(GROUPS[:group]), sum(GROUPS[: group + 1])
    mask = anchors(8, 8)
    assert not differs[:, :start].any() and not differs[:, start:end, mask].any()
    assert bool(differs[:, start:end, ~mask].any()) == bool(mask[row, column])
    assert bool(differs[:, end:].any()) == (end < M)


@pytest.mark.parametrize("certain", [0, CERTAIN, 16])
def test_certain_symbols_are_zero_and_no_others(model, certain):
    model.certain = certain
    y, z = random_values()
    _, symbols, _, index = simulated(model, y, z, 0.0)
    zero = torch.floor(index + 0.5) < certain
    assert not symbols[zero].any() and symbols[~zero].any() and bool(zero.any()) == (certain > 0)


def test_tables_come_back():
    first, second = random_model(), EntropyModel(M, M_H, N, LEVELS, GROUPS)
    tables = first.tables()
    second.load_tables(tables)
    again = second.tables()
    rows = {"quality_bias", "z_mean", "z_index"}  # between levels they are interpolated from rounded values
    for name, value in tables.items():
        step = QUALITY_STEPS if name in rows else 1
        np.testing.assert_array_equal(again[name][::step], value[::step])
        assert np.abs(again[name].astype(int) - value.astype(int)).max() <= 1
    assert ONE * second.z_mean.abs().max() > 1


def test_groups_must_add_up():
    with pytest.raises(ValueError, match="do not make 12 channels"):
        EntropyModel(M, M_H, N, LEVELS, (2, 4))
