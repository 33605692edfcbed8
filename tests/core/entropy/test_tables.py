"""Integer tables: the Gaussians that training assumes, and those fitted to counted symbols."""

import numpy as np
import pytest
import torch

from priorcodec.core.entropy.coder import CoderTables, Encoder
from priorcodec.core.entropy.entropy_model import gaussian_bits
from priorcodec.core.entropy.fitting import SymbolCounts
from priorcodec.core.entropy.tables import SCALES, Sizes, check_tables, gaussian_tables, quantized_cdf

SIZES = Sizes(m_h=2, n=2, levels=2, groups=(1, 1))
# Networks of zeros.
EMPTY = {name: np.zeros(shape, np.int16) for name, shape in SIZES.shapes().items() if "_cdf" not in name}


@pytest.mark.parametrize("kind", ["y", "z"])
def test_the_tables_are_the_gaussians_training_assumes(kind):
    tables = gaussian_tables()
    for i in (0, 20, SCALES - 1):
        length, offset = int(tables[f"{kind}_cdf_length"][i]), int(tables[f"{kind}_cdf_offset"][i])
        cdf = tables[f"{kind}_cdf"][i, :length]
        assert cdf[0] == 0 and cdf[-1] == 65536 and (np.diff(cdf) > 0).all()
        assert length == 3 - 2 * offset  # as many symbols on both sides of zero, and the escape
        middle = np.diff(cdf)[-offset] / 65536
        assert abs(-np.log2(middle) - gaussian_bits(torch.zeros(1), torch.tensor([float(i)])).item()) < 0.02


def test_rare_entries_take_from_the_rarest_that_can_give():
    cdf = quantized_cdf(np.array([1e-9, 0.5, 1e-9, 0.499, 0.001, 1e-9]))
    assert np.diff(cdf).tolist() == [1, 32768, 1, 32702, 63, 1]
    assert (np.diff(quantized_cdf(np.array([1.0, 0.0, 0.0]))) == [65534, 1, 1]).all()


def counted(symbols, index, kind="y", certain=0):
    counts = SymbolCounts()
    counts.add(symbols.astype(np.int16), index.astype(np.uint8), CoderTables(gaussian_tables(), kind, certain))
    return counts


def bits(tables, kind, symbols, index):
    encoder = Encoder()
    encoder.add(symbols.astype(np.int16), index.astype(np.uint8), CoderTables(tables, kind))
    encoder.finish()
    return sum(encoder.bits)


@pytest.mark.parametrize("kind", ["y", "z"])
def test_fitted_tables_are_valid_symmetric_and_cheaper_than_the_gaussian(kind):
    rng = np.random.default_rng(0)
    symbols = np.where(rng.random(200_000) < 0.002, rng.choice([-1, 1], 200_000), 0)  # rarer than table 20 has them
    index = np.full(len(symbols), 20)
    tables = counted(symbols, index, kind).tables()
    check_tables({**tables, **EMPTY}, SIZES)
    frequency = np.diff(tables[f"{kind}_cdf"][20, : tables[f"{kind}_cdf_length"][20]])[:-1]
    assert np.abs(frequency - frequency[::-1]).max() <= 1
    assert bits(tables, kind, symbols, index) < 0.3 * bits(gaussian_tables(), kind, symbols, index)
    other = "z" if kind == "y" else "y"
    np.testing.assert_array_equal(tables[f"{other}_cdf_length"], SymbolCounts().tables()[f"{other}_cdf_length"])


def test_tables_that_were_seldom_seen_and_certain_zeros_keep_the_gaussian():
    few, plain = counted(np.zeros(100), np.full(100, 30)), SymbolCounts()
    skipped = counted(np.zeros(10_000), np.full(10_000, 4), certain=5)
    for counts in (few, skipped):
        for name, value in counts.tables().items():
            np.testing.assert_array_equal(value, plain.tables()[name])


def test_tables_reach_what_was_seen_and_escape_the_rest():
    rng = np.random.default_rng(0)
    wide = np.rint(rng.laplace(scale=40, size=300_000))
    tables = counted(wide, np.full(len(wide), 63)).tables()
    row = tables["y_cdf"][63, : tables["y_cdf_length"][63]]
    assert (np.diff(row)[:-1] >= 1).all() and np.diff(row)[-1] >= 1
    assert bits(tables, "y", wide, np.full(len(wide), 63)) < bits(gaussian_tables(), "y", wide, np.full(len(wide), 63))
