"""The structure layer: lossless, small where maps are simple, and closed to damaged bytes."""

import contextlib

import numpy as np
import pytest

from priorcodec.core.errors import StreamError
from priorcodec.core.layers import structure
from priorcodec.core.layers.segmentation import segment
from priorcodec.core.layers.semantic import SemanticTables
from tests.core.entropy.reference import InvalidFile
from tests.core.layers import reference


@pytest.fixture(scope="module")
def start():
    return SemanticTables().start


def drawn(rows, columns, count, seed, side=4):
    """A canonical map of blocks."""
    dice = np.random.default_rng(seed)
    blocks = dice.integers(0, count, (rows // side + 1, columns // side + 1))
    return structure.canonical(blocks.repeat(side, 0).repeat(side, 1)[:rows, :columns])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (2, 2), (17, 33)])
@pytest.mark.parametrize("count", [1, 2, 5, 32])
@pytest.mark.parametrize("side", [1, 4])
def test_what_is_written_is_read_here_and_by_the_second_reader(start, shape, count, side):
    labels = drawn(*shape, count, seed=count, side=side)
    data = structure.pack(labels, start)
    np.testing.assert_array_equal(structure.unpack(data, *shape, start), labels)
    np.testing.assert_array_equal(reference.read_map(reference.tables(), data, *shape), labels)


def test_all_32_regions_come_back(start):
    labels = structure.canonical(np.arange(64).reshape(8, 8) % 32)
    assert structure.regions(labels) == 32
    np.testing.assert_array_equal(structure.unpack(structure.pack(labels, start), 8, 8, start), labels)
    with pytest.raises(StreamError, match="33 regions, wanted at most 32"):
        structure.canonical(np.arange(33)[None])


def test_numbers_follow_the_first_appearance():
    labels = structure.canonical(np.array([[7, 7, 3], [3, 0, 7]]))
    assert labels.tolist() == [[0, 0, 1], [1, 2, 0]]


def test_simple_maps_are_small(start):
    """768x512: one region, four quarters, and blocks of 64 pixels in eight regions at random."""
    maps = np.zeros((32, 48), np.uint8), drawn(32, 48, 8, 1, side=24), drawn(32, 48, 8, 2)
    sizes = [len(structure.pack(labels, start)) for labels in maps]
    assert sizes[0] <= 12 and sizes[1] <= 30
    assert sizes[2] < 0.5 * 32 * 48 * 3 / 8  # of three bits a label


def test_damage_is_refused_or_gives_another_map(start):
    labels = drawn(12, 20, 6, 3)
    data = structure.pack(labels, start)
    outcomes = []
    for bad in [data[:n] for n in range(len(data))] + [data + b"\1", data + b"\0", *flipped(data)]:
        try:
            found = structure.unpack(bad, 12, 20, start)
            wanted = reference.read_map(reference.tables(), bad, 12, 20)
            np.testing.assert_array_equal(found, wanted)
            assert structure.regions(found) <= 32
            outcomes.append("another")
        except StreamError:
            with pytest.raises(InvalidFile):
                reference.read_map(reference.tables(), bad, 12, 20)
            outcomes.append("refused")
    assert outcomes.count("refused") > 0.9 * len(outcomes)


def test_no_bytes_make_reading_take_more_than_six_steps_a_label(start, monkeypatch):
    """Counted, not timed: the worst are maps whose labels differ from all their neighbors, and those that run out of bytes."""
    steps = {"bit": 0, "choice": 0}
    for name in steps:
        plain = getattr(structure.DecisionDecoder, name)

        def counted(self, *given, name=name, plain=plain):
            steps[name] += 1
            return plain(self, *given)

        monkeypatch.setattr(structure.DecisionDecoder, name, counted)
    dice, rows, columns, most = np.random.default_rng(3), 40, 64, 0
    noise = structure.pack(structure.canonical(dice.integers(0, 32, (rows, columns))), start)
    for data in (b"", b"\1", b"\xff" * 4000, noise, noise[:100], *(dice.bytes(n) + b"\1" for n in (3, 30, 300))):
        steps.update(bit=0, choice=0)
        with contextlib.suppress(StreamError):
            structure.unpack(data, rows, columns, start)
        assert steps["bit"] <= 5 * rows * columns and steps["choice"] <= rows * columns
        most = max(most, sum(steps.values()))
    assert most > 4 * rows * columns  # the bound is nearly reached


def flipped(data):
    for bit in range(0, 8 * len(data), 3):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_segmentation_finds_plain_regions_and_obeys_its_prices():
    truth = drawn(24, 24, 4, 5, side=8)
    colors = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)[truth]
    noisy = colors + np.random.default_rng(0).normal(0, 1, colors.shape).astype(np.float32)
    np.testing.assert_array_equal(segment(noisy, border=2.0, region=10.0), truth)
    counts = [structure.regions(segment(noisy, border=2.0, region=price)) for price in (1e1, 1e4, 1e9)]
    assert counts[0] == 4 and counts[-1] == 1 and counts == sorted(counts, reverse=True)
    assert segment(np.ones((1, 1, 3), np.float32), border=1.0, region=1.0).tolist() == [[0]]
