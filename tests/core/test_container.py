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
    quality=st.integers(0, 224),
    height=st.integers(1, 8192),
    width=st.integers(1, 8192),
    hyper=st.binary(max_size=400),
    latent=st.binary(max_size=400),
    segments=segments,
)


def example(**changes) -> Container:
    plain = {"encoder_id": 0xDEADBEEF, "quality": 96, "height": 512, "width": 768}
    return Container(**(plain | {"hyper": bytes(range(40)), "latent": b"latent" * 30} | changes))


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


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
    assert seed(data) == zlib.crc32(data[:-4])
    if not stream.segments and max(stream.height, stream.width) < 16384:
        assert overhead_bytes(stream) == len(data) - len(stream.hyper) - len(stream.latent) <= 20


def test_the_bytes_are_those_of_the_table():
    data = pack(Container(encoder_id=0x01020304, quality=32, height=200, width=100, hyper=b"zz", latent=b"yyy"))
    assert data[:-4] == b"GIC\x01" + bytes([4, 3, 2, 1]) + b"\x20\x00" + b"\xc8\x01" + b"\x64" + b"\x02zz" + b"yyy"
    data = pack(example(height=1, width=1, hyper=b"z", latent=b"y", segments=(Segment(type=1, data=b"12345678"),)))
    assert data[9:-4] == b"\x01" + b"\x01\x01" + b"\x01z" + b"\x01y" + b"\x01\x0812345678"


@pytest.mark.parametrize(
    "side, hyper_bytes, overhead", [(1, 5, 17), (127, 127, 17), (128, 128, 20), (16383, 16383, 20)]
)
def test_overhead_of_plain_files(side, hyper_bytes, overhead):
    stream = example(height=side, width=side, hyper=bytes(hyper_bytes))
    assert overhead_bytes(stream) == overhead


@pytest.mark.parametrize("stream", [example(), example(segments=(Segment(type=1, data=bytes(8)),))])
def test_cut_anywhere_is_refused(stream):
    data = pack(stream)
    for length in range(len(data)):
        refused(data[:length])
        if length >= 4:
            try_repaired(data[:length])


@pytest.mark.parametrize("stream", [example(), example(segments=(Segment(type=1, data=bytes(8)),))])
def test_every_single_bit_flip_is_refused(stream):
    data = pack(stream)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(bytes(flipped))
        try_repaired(bytes(flipped))


def test_extension_is_refused():
    data = pack(example())
    for tail in (b"\0", b"\0" * 4, b"\xff" * 4, data, b"x" * 1000):
        refused(data + tail)
        refused(tail + data)


def try_repaired(data: bytes) -> None:
    """With the checksum made to fit, a file reads as a well-formed stream or is refused, and nothing else happens."""
    data = sealed(data[:-4])
    try:
        stream = unpack(data)
    except StreamError as error:
        assert "\n" not in str(error)
    else:
        assert stream.height * stream.width <= container.MAX_PIXELS
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
            refused(bytes(changed))
        try_repaired(bytes(changed))


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"GIC\x01", b"GIC\x01\0\0\0\0\x20\x00", b"GIC\x01\0\0\0\0\x20\x01\x01\x01"]),
)
def test_any_bytes_behind_a_good_checksum(body, head):
    try_repaired(head + body + bytes(4))


def body(*, size=b"\x01\x01", rest=b"\x00", version=1, quality=0, flags=0, magic=b"GIC") -> bytes:
    return sealed(magic + bytes([version, 0, 0, 0, 0, quality, flags]) + size + rest)


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "begins with nothing"),
        (b"\x89PNG" + bytes(40), "not a .gic file"),
        (body(magic=b"GIF"), "not a .gic file"),
        (body(version=2), "version 2"),
        (body(version=0), "version 0"),
        (body(quality=225), "quality is 225"),
        (body(flags=2), "unknown flags 0x02"),
        (body(flags=0x80), "unknown flags 0x80"),
        (body(size=b"\x00\x01"), "height is 0"),
        (body(size=b"\x01\x00"), "width is 0"),
        (body(size=b"\x81\x00\x01"), "height is not a varint"),
        (body(size=b"\xff\xff\xff\xff\x1f\x01"), "height is not a varint"),
        (body(size=b"\xff\xff\xff\xff\xff\x01\x01"), "height is not a varint"),
        (body(size=b"\xff\xff\xff\xff\x0f\xff\xff\xff\xff\x0f"), "more than 67108864 pixels"),
        (body(size=b"\x81\x40\x80\x40"), "8192x8193"),
        (body(size=b"\x80", rest=b""), "height should have 1 bytes, but only 0"),
        (body(rest=b"\xff\xff\xff\xff\x0f"), "z string should have 4294967295 bytes, but only 0"),
        (body(rest=b""), "z length should have 1 bytes"),
        (body(flags=1, rest=b"\0"), "y length should have 1 bytes"),
        (body(flags=1, rest=b"\0\0"), "segment type should have 1 bytes"),
        (body(flags=1, rest=b"\0\x05yyy"), "y string should have 5 bytes"),
        (body(flags=1, rest=b"\0\0\x01\xff\xff\xff\xff\x0f"), "segment should have 4294967295 bytes"),
        (body(flags=1, rest=b"\0\0\x01\x00\x01\x00"), "occurs twice"),
        (body(flags=1, rest=b"\0\0\x81\x00"), "segment type 129 is critical"),
    ],
)
def test_each_refusal_names_its_reason(data, says):
    assert says in refused(data)


def test_max_pixels_is_the_callers_choice():
    data = pack(example(height=100, width=100))
    assert "more than 9999 pixels" in refused(data, max_pixels=9999)
    assert unpack(data, max_pixels=10000).width == 100


def test_unknown_optional_segments_are_kept():
    stream = unpack(pack(example(segments=(Segment(type=77, data=b"later"), Segment(type=1, data=b"8 bytes!")))))
    assert stream.segment(77) == b"later"
    assert stream.segment(container.STATISTICS) == b"8 bytes!"
    assert stream.segment(2) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"quality": 225}, {"quality": -1}, {"quality": 1.5}, {"quality": True}, {"height": 0}, {"width": 2**32},
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
