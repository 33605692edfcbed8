"""The coder on arrays: round trips with escapes, its cost, and any bytes; the models have exactly our frequencies."""

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from priorcodec.core.entropy.coder import CoderTables, Decoder, Encoder
from priorcodec.core.entropy.tables import LARGEST_SYMBOL, SCALES, gaussian_tables
from priorcodec.core.errors import StreamError
from tests.core.entropy import reference

TABLES, CERTAIN = gaussian_tables(), 5
CODER, EVERY = CoderTables(TABLES, "y", CERTAIN), CoderTables(TABLES, "z")
REFERENCE = reference.Tables(TABLES, "y", CERTAIN)


def drawn(seed, size, spread=1.0):
    """Symbols as their tables expect them (spread 1), or wider; and the tables."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, SCALES, size).astype(np.uint8)
    symbols = np.rint(rng.normal(size=size) * 0.11 * np.exp(index * 0.0965) * spread)
    symbols = np.clip(symbols, -LARGEST_SYMBOL, LARGEST_SYMBOL).astype(np.int16)
    symbols[index < CERTAIN] = 0
    return symbols, index


def coded(*passes, tables=CODER):
    encoder = Encoder()
    for symbols, index in passes:
        encoder.add(symbols, index, tables)
    return encoder.finish(), encoder.bits


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 300.0, 1e6])
@pytest.mark.parametrize("size", [0, 1, 7, (5, 300)])
def test_round_trip_here_and_in_the_reference(spread, size):
    passes = [drawn(seed, size, spread) for seed in range(3)]
    data, _ = coded(*passes)
    decoder, other = Decoder(data), reference.Coder(data)
    for symbols, index in passes:
        np.testing.assert_array_equal(decoder.take(index, CODER), symbols)
        assert reference.read_pass(REFERENCE, other, index.ravel().tolist()) == symbols.ravel().tolist()
    decoder.finish()
    assert other.state == 0 and not other.words


@pytest.mark.parametrize("symbol", [LARGEST_SYMBOL, -LARGEST_SYMBOL, 3, -3, 4, -4])
@pytest.mark.parametrize("table", [0, 2, 40, 63])
def test_any_symbol_can_be_escaped(symbol, table):
    symbols, index = np.array([symbol, 0, symbol], np.int16), np.full(3, table, np.uint8)
    data, _ = coded((symbols, index), tables=EVERY)
    np.testing.assert_array_equal(Decoder(data).take(index, EVERY), symbols)


@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_the_string_is_what_the_tables_say_and_at_most_a_byte_more(spread):
    data, bits = coded(*(drawn(seed, 20_000, spread) for seed in range(3)))
    assert len(bits) == 3 and 0 <= len(data) - sum(bits) / 8 < 1 + 1e-4 * len(data)


def test_nothing_to_code_is_an_empty_string():
    index = np.full(1000, CERTAIN - 1, np.uint8)
    assert coded((np.zeros(1000, np.int16), index)) == (b"", [0.0])
    decoder = Decoder(b"")
    assert not decoder.take(index, CODER).any()
    decoder.finish()


def test_the_models_have_exactly_the_integers_of_the_tables():
    """Each entry between its neighbors: what a state gives at the first and the last quantile of every entry of every table."""
    for table in range(SCALES):
        cdf = REFERENCE.cdf[table]
        quantiles = [256 * cdf[e] for e in range(len(cdf) - 1)] + [256 * cdf[e + 1] - 1 for e in range(len(cdf) - 1)]
        for quantile in quantiles:
            state = 1 << 24 | quantile
            got = constriction.stream.stack.AnsCoder(np.array([state], np.uint32)).decode(CODER.models[table], 1)[0]
            assert cdf[got] * 256 <= quantile < cdf[got + 1] * 256, (table, quantile)


def test_a_string_with_more_than_its_symbols_is_refused():
    symbols, index = drawn(0, 500)
    data, _ = coded((symbols, index))
    decoder = Decoder(b"\1\2\3\4" * 3 + data)  # words are read from the end
    decoder.take(index, CODER)
    with pytest.raises(StreamError, match="does not end where its symbols end"):
        decoder.finish()
    with pytest.raises(StreamError, match="ends with a zero byte"):
        Decoder(data + b"\0")


@given(st.binary(max_size=80), st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_symbols_or_one_line_as_in_the_reference(data, seed):
    _, index = drawn(seed, 200)
    try:
        got = Decoder(data).take(index, CODER).tolist()
    except StreamError as error:
        assert "\n" not in str(error)
        got = None
    try:
        wanted = reference.read_pass(REFERENCE, reference.Coder(data), index.tolist())
    except reference.InvalidFile:
        wanted = None
    assert got == wanted
