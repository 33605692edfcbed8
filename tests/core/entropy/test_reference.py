"""Every golden file has the same symbols in the second reader, written from docs/format.md alone, as in ours."""

import numpy as np
import pytest

from priorcodec.core import container
from priorcodec.core.errors import StreamError
from priorcodec.core.exact_reader import ExactReader
from tests.core.entropy import reference
from tests.golden.check import ENCODER, golden

FILES = golden()
AREA = {
    name: np.prod(container.padded(c.height, c.width))
    for name, (data, _) in FILES.items()
    if (c := container.unpack(data))
}
SMALL = [name for name in FILES if AREA[name] <= 128 * 192]


@pytest.fixture(scope="module")
def encoder():
    return reference.Encoder()


@pytest.fixture(scope="module")
def reader():
    return ExactReader.load(ENCODER)


def agree(encoder, reader, name):
    data, wanted = FILES[name]
    values, digest = reference.decode(encoder, data)
    assert digest == wanted
    np.testing.assert_array_equal(values, reader.read(data)[1].astype(np.float64) * 256)


def test_small_files(encoder, reader, record_property):
    assert len(SMALL) >= 20
    record_property("tries", len(SMALL))
    for name in SMALL:
        agree(encoder, reader, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(FILES) - set(SMALL)))
def test_every_other_file(encoder, reader, name):
    agree(encoder, reader, name)


def test_both_refuse_the_same_bodies(encoder, reader):
    """Bits of the header and of the string flipped under a check that fits."""
    data = FILES["photo-17x15-q10.5"][0]
    for bit in range(0, 8 * (len(data) - 4), 5):
        body = bytearray(data[:-4])
        body[bit // 8] ^= 1 << bit % 8
        forged = bytes(body) + (reference.zlib.crc32(body) ^ encoder.id).to_bytes(4, "little")
        try:
            content = container.unpack(forged)
            got = reader.read(forged)[2] if content.height * content.width < 2**14 else None
        except StreamError:
            got = ""
        if got is None:  # an image that would take the reference minutes
            continue
        try:
            wanted = reference.decode(encoder, forged)[1]
        except (reference.InvalidFile, IndexError):
            wanted = ""
        assert got == wanted, bit
