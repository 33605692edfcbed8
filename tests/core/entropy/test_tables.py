"""Integer tables: the Gaussians that training assumes, and those of the shipped encoder."""

import numpy as np
import torch
from safetensors.numpy import load_file

from priorcodec.core.codec import WEIGHTS
from priorcodec.core.entropy.coder import CoderTables
from priorcodec.core.entropy.entropy_model import gaussian_bits
from priorcodec.core.entropy.tables import SCALES, gaussian_tables, quantized_cdf


def test_the_tables_are_the_gaussians_training_assumes():
    tables = gaussian_tables()
    for i in (0, 20, SCALES - 1):
        length, offset = int(tables["cdf_length"][i]), int(tables["cdf_offset"][i])
        cdf = tables["cdf"][i, :length]
        assert cdf[0] == 0 and cdf[-1] == 65536 and (np.diff(cdf) > 0).all()
        middle = np.diff(cdf)[-offset] / 65536
        assert abs(-np.log2(middle) - gaussian_bits(torch.zeros(1), torch.tensor([float(i)])).item()) < 0.02


def test_they_are_the_ones_the_shipped_encoder_was_frozen_with():
    """CompressAI made those; ours are the same integers."""
    shipped = load_file(WEIGHTS / "encoder.safetensors")
    for name, value in gaussian_tables().items():
        np.testing.assert_array_equal(value, shipped[f"prior.{name}"])


def test_rare_entries_take_from_the_rarest_that_can_give():
    cdf = quantized_cdf(np.array([1e-9, 0.5, 1e-9, 0.499, 0.001, 1e-9]))
    assert np.diff(cdf).tolist() == [1, 32768, 1, 32702, 63, 1]
    assert (np.diff(quantized_cdf(np.array([1.0, 0.0, 0.0]))) == [65534, 1, 1]).all()


def test_tables_are_certain_only_where_nothing_else_is_likelier_than_it_must_be():
    tables = {name: value.copy() for name, value in gaussian_tables().items()}
    assert np.flatnonzero(CoderTables(tables).certain).tolist() == [0, 1]
    length = int(tables["cdf_length"][5])
    tables["cdf"][5, :length] = [0, 1, 2, 65533, 65534, 65535, 65536]
    assert np.flatnonzero(CoderTables(tables).certain).tolist() == [0, 1, 5]
    tables["cdf_offset"][5] = -1  # now the likely entry is 1
    assert np.flatnonzero(CoderTables(tables).certain).tolist() == [0, 1]
