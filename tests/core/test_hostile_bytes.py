"""Untrusted bytes through the whole reader, up to the symbols: a StreamError in one line, quickly, in little memory."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.container import Container, Segment
from priorcodec.core.errors import StreamError
from priorcodec.core.image import io as image_io
from tests.core.test_container import sealed as sealed_for
from tests.helpers import DEMO

CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.gic"))


def sealed(codec, body):
    """With the encoder's byte and a check that fits both."""
    body = body[:4] + bytes([codec.id & 0xFF]) + body[5:] if len(body) > 4 else body
    return sealed_for(body, codec.id)


@pytest.fixture(scope="module")
def codec():
    return Codec()


@pytest.fixture(scope="module")
def small(codec):
    """A file of about a hundred bytes, with statistics."""
    return codec.encode(image_io.load(DEMO).pixels[100:140, 50:98], 2, statistics=True).data


def attempt(codec, data):
    """-> whether it decodes; anything but a StreamError in one line, within a second of work, fails."""
    started = time.process_time()
    try:
        codec.reader.read(data)
        container.describe(data)
    except StreamError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        assert time.process_time() - started < 1
        return False
    return True


def sized(codec, data, **changes):
    return container.pack(Container(**{**vars(container.unpack(data)), **changes}))


def test_cut_at_every_byte(codec, small, record_property):
    record_property("tries", 2 * len(small) - 4)
    assert attempt(codec, small)
    assert not any(attempt(codec, small[:length]) for length in range(len(small)))
    for length in range(4, len(small)):
        attempt(codec, sealed(codec, small[:length]))


def flips(data, bits):
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_every_single_bit_flip(codec, small, record_property):
    record_property("tries", 8 * len(small))
    assert not any(attempt(codec, data) for data in flips(small, range(8 * len(small))))


def test_every_bit_of_the_header_flipped_under_a_good_checksum(codec, small, record_property):
    record_property("tries", 8 * 12)
    for data in flips(small, range(8 * 12)):
        attempt(codec, sealed(codec, data[:-4]))


@pytest.mark.slow
def test_every_bit_flipped_under_a_good_checksum(codec, small, record_property):
    record_property("tries", 8 * len(small) - 32)
    for data in flips(small, range(8 * len(small) - 32)):
        attempt(codec, sealed(codec, data[:-4]))


def test_concatenated_and_nested_files(codec, small):
    stream = container.unpack(small)
    assert not attempt(codec, small + small)
    assert not attempt(codec, b"\0" * 4 + small)
    assert not attempt(codec, small[:-4] + small)
    nested = Container(**{**vars(stream), "segments": (Segment(type=77, data=small),)})
    assert attempt(codec, container.pack(nested))  # an optional segment that nobody here reads
    attempt(codec, sized(codec, small, string=small + b"\1"))


def test_a_header_cannot_ask_for_more_than_its_file_is_worth(codec, small):
    for height, width in ((4000, 4000), (8192, 8192), (1, 65535), (65535, 64)):
        with pytest.raises(StreamError, match="entropy string has .* bytes, an image of this size needs"):
            codec.reader.read(sized(codec, small, height=height, width=width))


BOMBS = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))  # what hangs is ended, and fails
from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.errors import StreamError
codec, small = Codec(), bytes.fromhex(sys.argv[1])
codec.reader.read(small)
stream = vars(container.unpack(small))
pack = lambda **changes: container.pack(container.Container(**{**stream, **changes}))
def sealed(body):
    import zlib
    return body + (zlib.crc32(body) ^ codec.id).to_bytes(4, "little")
head = small[:3] + b"\\x02" + small[4:5] + b"\\x20"
strip = b"\\x01" + b"\\x80\\x89\\x7a"  # 2,000,000x1
long = lambda bits: bytes([0x80] * (bits // 7)) + bytes([1 << bits % 7])  # a varint that says 2**bits
bombs = [pack(height=h, width=w) for h, w in [
    (65535, 65535), (1, 65535), (65535, 1), (8192, 8192), (64, 65535), (1500, 1500)]]
bombs += [sealed(head[:5] + bytes([q]) + s + b"\\1" * 12900) for q in (0, 176) for s in (strip, strip[1:] + strip[:1])]
bombs += [sealed(head + p) for p in [
    long(60) + b"\\x01\\x00", b"\\x01\\x01" + long(40) + b"\\x00", b"\\xff" * 4096, long(63) * 9]]
possible = [sealed(head + b"\\x01\\x01" + long(bits)) for bits in (31, 60)]
head = small[:3] + b"\\x12" + small[4:5] + b"\\x20\\x28\\x30"  # 48x40, then segments
bombs += [sealed(head + p) for p in [b"\\x07" + long(31), b"\\x07" + long(60), b"".join(bytes([i, 0]) for i in range(256))]]
bombs += [small * 2, small * 10000, small[:-4] + small, bytes(4) + small]
possible += [pack(height=40, width=48, string=small * 4000 + b"\\xff" * 400000), pack(height=40, width=48, string=b"\\1" * 9**6)]
possible += [pack(segments=(container.Segment(type=77, data=small * 10000),))]
for bit in range(8 * 12):
    changed = bytearray(small[:-4])
    changed[bit // 8] ^= 1 << bit % 8
    possible.append(sealed(bytes(changed)))
before, slowest, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, 0
for i, data in enumerate(bombs + possible):
    started = time.process_time()
    try:
        codec.reader.read(data)
    except StreamError:
        refused += i < len(bombs)
    slowest = max(slowest, time.process_time() - started)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps({"bombs": len(bombs), "refused": refused, "possible": len(possible), "slowest_s": slowest, "grown_mib": grown}))
"""


def test_bombs_take_neither_time_nor_memory(small, record_property):
    out = subprocess.run([sys.executable, "-c", BOMBS, small.hex()], capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    record_property("tries", found["bombs"] + found["possible"])
    assert found["refused"] == found["bombs"]  # the others are long or strange, but may hold possible symbols
    assert found["slowest_s"] < 1 and found["grown_mib"] < 200, found


def test_an_image_beyond_max_pixels_is_the_callers_choice(codec, small):
    with pytest.raises(StreamError, match="48x40, with its padding 64x64, more than 4095 pixels: raise max_pixels"):
        codec.reader.read(small, max_pixels=4095)
    with pytest.raises(StreamError, match="48x40"):
        container.describe(small, max_pixels=4095)
    assert container.describe(small, max_pixels=4096)["width"] == 48


def test_the_corpus_is_small_and_ends_well(codec):
    """Seeds of `tests/fuzz.py`; written for another encoder they still test everything up to its id."""
    assert len(CORPUS) >= 8 and all(path.stat().st_size <= 600 for path in CORPUS)
    for path in CORPUS:
        data = path.read_bytes()
        attempt(codec, data)
        if data[:3] == b"GIC" and len(data) > 9:
            attempt(codec, sealed(codec, data[:-4]))
