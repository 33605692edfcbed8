"""Encoder 2's recipes: the optimizer, the fitted tables, the crops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from priorcodec.core.entropy.coder import CoderTables, Encoder
from priorcodec.core.entropy.fitting import REACH, fitted
from priorcodec.core.entropy.tables import PRECISION, SCALES, gaussian_tables, table_set
from recipes.encoder2.crops import Crops
from recipes.encoder2.fit_tables import table_bits
from recipes.encoder2.muon import FAST, MuonAdam, orthogonalized


def test_orthogonalized_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 24, 90), (2, 60, 16)):
        values = torch.linalg.svdvals(orthogonalized(torch.randn(shape) * torch.logspace(0, -2, shape[2])))
        assert values.min() > 0.6 and values.max() < 1.3


def test_vectors_follow_adam():
    torch.manual_seed(0)
    start = torch.randn(7), torch.randn(5, 3)
    ours = [("entropy.bias", torch.nn.Parameter(start[0].clone())), ("gain", torch.nn.Parameter(start[1].clone()))]
    theirs = [torch.nn.Parameter(s.clone()) for s in start]
    optimizer = MuonAdam(ours, 1e-2)
    reference = torch.optim.Adam(
        [{"params": [theirs[0]], "lr": FAST * 1e-2}, {"params": [theirs[1]]}], 1e-2, (0.9, 0.99)
    )
    for _ in range(5):
        for (_, p), q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    for (_, p), q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_fitted_tables_are_valid_and_cheaper_than_the_gaussian():
    rng = np.random.default_rng(0)
    count = np.zeros((SCALES, 2 * REACH + 1))
    symbols = np.where(rng.random(200_000) < 0.002, rng.choice([-1, 1], 200_000), 0)  # rarer than index 20 has them
    np.add.at(count[20], symbols + REACH, 1)
    table, length, offset = table_set("y", fitted(count)).values()
    for row, n, first in zip(table, length, offset, strict=True):
        assert n == 3 - 2 * first and row[0] == 0 and row[n - 1] == 1 << PRECISION and (np.diff(row[:n]) > 0).all()
    gaussian, _, gaussian_offset = table_set("y", fitted(np.zeros_like(count))).values()
    index = np.full(len(symbols), 20)
    assert table_bits(table, offset, symbols, index) < 0.3 * table_bits(gaussian, gaussian_offset, symbols, index)


def test_crops_are_a_function_of_seed_step_and_slot(tmp_path):
    shapes = [(80, 70), (64, 200)]
    data = np.random.default_rng(0).integers(0, 256, sum(h * w * 3 for h, w in shapes), dtype=np.uint8)
    data.tofile(tmp_path / "some.bin")
    (tmp_path / "some.json").write_text(json.dumps(shapes))
    first, second = (Crops(tmp_path / "some", seed=4).batch(3, 5, 64, enlarged=0.5) for _ in range(2))
    assert first.shape == (5, 3, 64, 64) and torch.equal(first, second)
    assert not torch.equal(first, Crops(tmp_path / "some", seed=4).batch(4, 5, 64, enlarged=0.5))


def test_symbols_beyond_their_table_are_priced_as_the_coder_prices_them():
    tables = gaussian_tables()
    for beyond in (1, -1, 2, -2, 100, -100):
        index = np.array([20], np.uint8)
        reach = -int(tables["y_cdf_offset"][20])
        symbol = np.array([np.sign(beyond) * reach + beyond], np.int16)
        encoder = Encoder()
        encoder.add(symbol, index, CoderTables(tables, "y"))
        got = table_bits(tables["y_cdf"], tables["y_cdf_offset"], symbol.astype(np.int64), index)
        assert got == pytest.approx(encoder.bits[0])
