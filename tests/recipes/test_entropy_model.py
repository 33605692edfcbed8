"""Encoder 2's entropy model: the simulation equals the exact integers, decoding order is respected, certain zeros are zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from priorcodec.core.entropy.entropy_model import EntropyModel, anchors, packed, unpacked
from priorcodec.core.entropy.exact import ONE
from priorcodec.core.entropy.tables import QUALITY_STEPS
from recipes.encoder2.entropy_model import exact_parameters

M, M_H, N, LEVELS, GROUPS = 12, 4, 8, 12, (2, 4, 6)


@pytest.fixture
def model() -> EntropyModel:
    torch.manual_seed(3)
    model = EntropyModel(M, M_H, N, LEVELS, GROUPS).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2).add_(0.05 * torch.randn_like(p))
        model.quality_bias.normal_(0, 0.3)
        for name, p in model.named_parameters():
            if name.endswith(".bias"):  # as frozen: `tables` rounds it to the unit of the sum
                p.copy_(torch.floor(p * 2**18 + 0.5) / 2**18)
    return model


def whole(x: Tensor) -> np.ndarray:
    """Integers (c, h, w) as the exact evaluation has them, (h, w, c)."""
    return x.detach().permute(1, 2, 0).numpy().astype(np.int16)


def test_packing_is_undone():
    x = torch.randn(2, 3, 4, 8)
    mask = anchors(4, 8)
    assert torch.equal(unpacked(packed(x, False), packed(x, True)), x)
    assert torch.equal(unpacked(packed(x, False), torch.zeros(2, 3, 4, 4)), torch.where(mask, x, 0.0))


def test_simulation_equals_the_exact_integers(model: EntropyModel):
    quality = 37
    z_hat = torch.randint(-800, 800, (1, M_H, 2, 2)).double()
    y = 3 * torch.randn(1, M, 8, 8, dtype=torch.float64)
    phi = model.features(z_hat / ONE, torch.tensor([quality / QUALITY_STEPS], dtype=torch.float64))
    symbols, mean, index = model(y, phi)
    values = symbols * ONE + torch.floor(mean * ONE + 0.5)
    exact_mean, exact_index = exact_parameters(model.tables(), whole(z_hat[0]), whole(values[0]), quality, GROUPS)
    assert np.array_equal(whole(torch.floor(mean[0] * ONE + 0.5)), exact_mean)
    assert np.array_equal(whole(torch.floor(index[0] + 0.5)), exact_index)
    assert len(np.unique(exact_index)) > 5


def test_parameters_depend_on_earlier_values_only(model: EntropyModel):
    """A change of one value changes no parameter of what is decoded before it, or together with it."""
    rng = np.random.default_rng(0)
    tables, z_hat = model.tables(), rng.integers(-800, 800, (2, 2, M_H)).astype(np.int16)
    values = rng.integers(-2000, 2000, (8, 8, M)).astype(np.int16)
    mean, index = exact_parameters(tables, z_hat, values, 0, GROUPS)
    mask = anchors(8, 8).numpy()
    for channel, row, column in ((3, 2, 3), (3, 2, 2), (0, 4, 4), (11, 5, 4)):
        changed = values.copy()
        changed[row, column, channel] += 3000
        new_mean, new_index = exact_parameters(tables, z_hat, changed, 0, GROUPS)
        differs = (new_mean != mean) | (new_index != index)
        group = next(g for g in range(len(GROUPS)) if channel < sum(GROUPS[: g + 1]))
        start, end = sum(GROUPS[:group]), sum(GROUPS[: group + 1])
        assert not differs[..., :start].any()
        if mask[row, column]:
            assert not differs[mask][:, start:end].any()
            assert differs[~mask][:, start:end].any()
        else:
            assert not differs[..., start:end].any()
        assert bool(differs[..., end:].any()) == (end < M)


def test_certain_symbols_are_zero(model: EntropyModel):
    y = 3 * torch.randn(1, M, 8, 8, dtype=torch.float64)
    phi = model.features(torch.randn(1, M_H, 2, 2).double(), torch.zeros(1, dtype=torch.float64))
    symbols, _, index = model(y, phi, certain=16)
    certain = torch.floor(index + 0.5) < 16
    assert certain.any() and not certain.all()
    assert not symbols[certain].any() and symbols[~certain].any()


def test_sums_stay_exact():
    """The largest sum of the shipped widths is below 2**53: the proof in `integer`."""
    from priorcodec.core.transforms import EncoderConfig

    c = EncoderConfig()
    assert sum(c.groups) == c.m
    fan_in = 9 * max(c.m, c.n)
    assert fan_in * 2**15 * 2**15 + 2**31 < 2**53
