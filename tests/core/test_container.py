"""The file: what is written is read, and anything else is refused with one line."""

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from priorcodec.core import container
from priorcodec.core.container import Container, Segment, overhead_bytes, pack, seed, unpack
from priorcodec.core.errors import StreamError

segments = st.lists(
    st.builds(Segment, type=st.integers(0, 127), data=st.binary(max_size=200)), max_size=4, unique_by=lambda s: s.type
).map(tuple)
streams = st.builds(
    Container,
    encoder_id=st.integers(0, 2**32 - 1),
    quality=st.integers(0, 176),
    height=st.integers(1, 8192),
    width=st.integers(1, 8192),
    string=st.binary(max_size=400),
    segments=segments,
)


def example(**changes) -> Container:
    plain = {"encoder_id": 0xDEADBEEF, "quality": 96, "height": 512, "width": 768}
    return Container(**(plain | {"string": bytes(range(40)) + b"string" * 30} | changes))


def sealed(body: bytes, encoder_id: int | None = None) -> bytes:
    """With a check that fits: that of an encoder whose id has the low byte of the header, if none is given."""
    identity = encoder_id if encoder_id is not None else body[4] if len(body) > 4 else 0
    return body + (zlib.crc32(body) ^ identity).to_bytes(4, "little")


def refused(data: bytes, **options) -> str:
    with pytest.raises(StreamError) as caught:
        unpack(data, **options)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 200
    return message


@given(streams)
def test_round_trip(stream):
    data = pack(stream)
    assert unpack(data) == stream
    assert unpack(memoryview(data)) == stream
    assert seed(data) == zlib.crc32(data[:-4]) ^ stream.encoder_id
    if not stream.segments and max(stream.height, stream.width) < 16384:
        assert overhead_bytes(stream) == len(data) - len(stream.string) <= 14


def test_the_bytes_are_those_of_the_table():
    data = pack(Container(encoder_id=0x01020304, quality=32, height=200, width=100, string=b"zzyyy"))
    assert data[:-4] == b"GIC\x02" + b"\x04\x20" + b"\xc8\x01" + b"\x64" + b"zzyyy"
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4]) ^ 0x01020304
    data = pack(example(height=1, width=1, string=b"zy", segments=(Segment(type=1, data=b"12345678"),)))
    assert data[:-4] == b"GIC\x12" + b"\xef\x60" + b"\x01\x01" + b"\x02zy" + b"\x01\x0812345678"


@pytest.mark.parametrize(
    "height, width, overhead", [(1, 1, 12), (127, 127, 12), (512, 768, 14), (8191, 16383, 14), (1, 65535, 14)]
)
def test_overhead_of_plain_files(height, width, overhead):
    assert overhead_bytes(example(height=height, width=width)) == overhead


@pytest.mark.parametrize("stream", [example(), example(segments=(Segment(type=1, data=bytes(8)),))])
def test_cut_anywhere_is_refused(stream):
    data = pack(stream)
    for length in range(len(data)):
        refused_or_foreign(data[:length], stream.encoder_id)
        if length >= 4:
            try_repaired(data[:length])


@pytest.mark.parametrize("stream", [example(), example(segments=(Segment(type=1, data=bytes(8)),))])
def test_every_single_bit_flip_is_refused_or_is_of_another_encoder(stream):
    data, passed = pack(stream), 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        passed += refused_or_foreign(bytes(flipped), stream.encoder_id)
        try_repaired(bytes(flipped))
    assert passed < 8 * len(data) / 20


def test_extension_is_refused():
    data = pack(example())
    for tail in (b"\0", b"\0" * 4, b"\xff" * 4, data, b"x" * 1000):
        refused_or_foreign(data + tail, 0xDEADBEEF)
        refused(tail + data) if not tail.startswith(b"GIC") else refused_or_foreign(tail + data, 0xDEADBEEF)


def refused_or_foreign(data: bytes, encoder_id: int) -> bool:
    """A damaged file: refused in one line, or (one in 256) with the id of an encoder that nobody has. -> whether it passed."""
    try:
        content = unpack(data)
    except StreamError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
        return False
    assert content.encoder_id != encoder_id
    return True


def try_repaired(data: bytes) -> None:
    """With the check made to fit, a file reads as a well-formed one or is refused, and nothing else happens."""
    data = sealed(data[:-4])
    try:
        stream = unpack(data)
    except StreamError as error:
        assert "\n" not in str(error)
    else:
        rows, columns = container.padded(stream.height, stream.width)
        assert rows * columns <= container.MAX_PIXELS
        assert pack(stream) == data, "two different files read as the same stream"


def test_a_thousand_random_mutations():
    dice = random.Random(2)
    data = pack(example(segments=(Segment(type=1, data=bytes(8)), Segment(type=9, data=b"nine"))))
    for _ in range(1000):
        changed = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            at = dice.randrange(len(changed))
            match dice.randrange(4):
                case 0:
                    changed[at] = dice.randrange(256)
                case 1:
                    changed.insert(at, dice.randrange(256))
                case 2:
                    del changed[at]
                case 3:
                    changed[at : at + 8] = dice.randbytes(dice.randrange(16))
        if bytes(changed) != data:
            refused_or_foreign(bytes(changed), 0xDEADBEEF)
        try_repaired(bytes(changed))


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"GIC\x02", b"GIC\x02\0\x20", b"GIC\x12\0\x20\x01\x01"]),
)
def test_any_bytes_behind_a_good_checksum(body, head):
    try_repaired(head + body + bytes(4))


def body(*, size=b"\x01\x01", rest=b"\x00", version=2, quality=0, flags=0, magic=b"GIC") -> bytes:
    return sealed(magic + bytes([version | flags, 7, quality]) + size + rest)


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "begins with nothing"),
        (b"\x89PNG" + bytes(40), "not a .gic file"),
        (body(magic=b"GIF"), "not a .gic file"),
        (b"GIC", "damaged or cut short"),
        (b"GIC\x02", "damaged or cut short"),
        (body(version=1), "version 1, but this priorcodec reads version 2: encode the image again"),
        (body(version=3), "version 3, but this priorcodec reads version 2: update priorcodec"),
        (body(version=0), "version 0"),
        (body(quality=177), "quality is 177"),
        (body(flags=0x20), "unknown flags 0x20"),
        (body(flags=0x90), "unknown flags 0x90"),
        (body(size=b"\x00\x01"), "height is 0"),
        (body(size=b"\x01\x00"), "width is 0"),
        (body(size=b"\x81\x00\x01"), "height is not a varint"),
        (body(size=b"\xff\xff\xff\xff\x1f\x01"), "height is not a varint"),
        (body(size=b"\xff\xff\xff\xff\xff\x01\x01"), "height is not a varint"),
        (body(size=b"\xff\xff\xff\xff\x0f\x01"), "height is 4294967295, wanted a whole number from 1 to 65535"),
        (body(size=b"\x01\x80\x80\x04"), "width is 65536"),
        (body(size=b"\xff\xff\x03\xff\xff\x03"), "more than 67108864 pixels"),
        (body(size=b"\x81\x40\x80\x40"), "8192x8193, with its padding 8192x8256"),
        (body(size=b"\x80", rest=b""), "height should have 1 bytes, but only 0"),
        (body(flags=16, rest=b"\xff\xff\xff\xff\x0f"), "entropy string should have 4294967295 bytes, but only 0"),
        (body(flags=16, rest=b""), "string length should have 1 bytes"),
        (body(flags=16, rest=b"\0"), "segment type should have 1 bytes"),
        (body(flags=16, rest=b"\x05yyy"), "entropy string should have 5 bytes"),
        (body(flags=16, rest=b"\0\x01\xff\xff\xff\xff\x0f"), "segment should have 4294967295 bytes"),
        (body(flags=16, rest=b"\0\x01\x00\x01\x00"), "occurs twice"),
        (body(flags=16, rest=b"\0\x81\x00"), "segment type 129 is critical"),
    ],
)
def test_each_refusal_names_its_reason(data, says):
    assert says in refused(data)


def test_max_pixels_is_the_callers_choice():
    data = pack(example(height=100, width=100))
    assert "100x100, with its padding 128x128, more than 16383 pixels" in refused(data, max_pixels=16383)
    assert unpack(data, max_pixels=16384).width == 100
    assert "1x65535, with its padding 64x65536" in refused(pack(example(height=65535, width=1)), max_pixels=2**22 - 1)


def test_unknown_optional_segments_are_kept():
    stream = unpack(pack(example(segments=(Segment(type=77, data=b"later"), Segment(type=1, data=b"8 bytes!")))))
    assert stream.segment(77) == b"later"
    assert stream.segment(container.STATISTICS) == b"8 bytes!"
    assert stream.segment(2) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"quality": 177}, {"quality": -1}, {"quality": 1.5}, {"quality": True}, {"height": 0}, {"width": 65_536},
        {"encoder_id": 2**32}, {"encoder_id": -1},
        {"segments": (Segment(type=256, data=b""),)},
        {"segments": (Segment(type=128, data=b""),)},
        {"segments": (Segment(type=5, data=b""), Segment(type=5, data=b"")),},
    ],
)  # fmt: skip
def test_what_cannot_be_read_cannot_be_written(changes):
    with pytest.raises(StreamError):
        example(**changes)


def test_not_bytes():
    with pytest.raises(StreamError, match="got str"):
        unpack("GIC")  # type: ignore[arg-type]
    with pytest.raises(StreamError):
        seed(b"123")
