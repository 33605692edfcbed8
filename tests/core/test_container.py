"""The file: what is written is read, and anything else is refused with one line."""

import random
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from priorcodec.core import container
from priorcodec.core.container import LATENT, RESIDUAL, Container, Segment, overhead_bytes, pack, unpack
from priorcodec.core.errors import ConfigError, StreamError

segments = st.lists(
    st.builds(Segment, type=st.integers(0, 127).filter(lambda kind: kind != LATENT), data=st.binary(max_size=200)),
    max_size=4, unique_by=lambda s: s.type,
).map(lambda found: tuple(sorted(found, key=lambda s: s.type)))  # fmt: skip
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
    if not stream.segments:
        assert unpack(data).seed == zlib.crc32(data[:-4]) ^ stream.encoder_id
    if not stream.segments and max(stream.height, stream.width) < 16384:
        assert overhead_bytes(stream) == len(data) - len(stream.string) <= 14


def test_the_bytes_are_those_of_the_table():
    data = pack(Container(encoder_id=0x01020304, quality=32, height=200, width=100, string=b"zzyyy"))
    assert data[:-4] == b"GIC\x02" + b"\x04\x20" + b"\xc8\x01" + b"\x64" + b"zzyyy"
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4]) ^ 0x01020304
    data = pack(example(height=1, width=1, string=b"zy", segments=(Segment(type=1, data=b"12345678"),)))
    head, first = b"GIC\x12" + b"\xef\x60" + b"\x01\x01", b"\x01\x0812345678"
    checked = sealed(head + first, 0xDEADBEEF)
    assert data == sealed(checked + b"\x20\x02zy", 0xDEADBEEF)


@pytest.mark.parametrize(
    "height, width, overhead", [(1, 1, 12), (127, 127, 12), (512, 768, 14), (8191, 16383, 14), (1, 65535, 14)]
)
def test_overhead_of_plain_files(height, width, overhead):
    assert overhead_bytes(example(height=height, width=width)) == overhead


@pytest.mark.parametrize("stream", [example(), example(segments=(Segment(type=1, data=bytes(8)),))])
def test_cut_anywhere_but_behind_a_segment_is_refused(stream):
    data = pack(stream)
    borders = ends(data) if stream.segments else []
    for length in range(len(data)):
        if length in borders:
            continue
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
        plain = stream.string is not None and not stream.segments  # also of a file cut down to its latent
        assert pack(stream) == data or (plain and data[3] == 0x12), "two different files read as the same stream"


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


def several(*types: int) -> bytes:
    """A file of empty segments."""
    data = body(flags=16, rest=bytes([types[0], 0]))
    for kind in types[1:]:
        data = sealed(data + bytes([kind, 0]), 7)
    return data


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
        (body(flags=16, rest=b"\x20\xff\xff\xff\xff\x0f"), "segment should have 4294967295 bytes, but only 4"),
        (body(flags=16, rest=b"\x20\x09yyy"), "segment should have 9 bytes, but only 7"),
        (body(flags=16, rest=b"\x20\x05yyy"), "check of a segment should have 4 bytes, but only 2"),
        (body(flags=16, rest=b"\x20\x03yyy\0\0\0\0\x30\0"), "check of segment type 32 does not match"),
        (body(flags=16, rest=b"\x81\x00"), "segment type 129 is critical"),
        (several(7, 7), "segment type 7 follows 7, wanted rising types"),
        (several(33, 32), "segment type 32 follows 33, wanted rising types"),
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
    stream = unpack(pack(example(segments=(Segment(type=1, data=b"8 bytes!"), Segment(type=77, data=b"later")))))
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
        {"segments": (Segment(type=6, data=b""), Segment(type=5, data=b"")),},
        {"segments": (Segment(type=LATENT, data=b""),)},
        {"string": None},
    ],
)  # fmt: skip
def test_what_cannot_be_read_cannot_be_written(changes):
    with pytest.raises(StreamError):
        example(**changes)


def test_not_bytes():
    with pytest.raises(StreamError, match="got str"):
        unpack("GIC")  # type: ignore[arg-type]


LAYERED = example(
    segments=tuple(Segment(type=kind, data=bytes([kind]) * 9) for kind in (1, 16, 17, 48)), string=b"the latent"
)
LAYER_NAMES = ["semantic", "latent", "residual"]


def ends(data: bytes) -> list[int]:
    """Where the segments of a file of `example`'s size end: an independent walk, each length below 16384."""
    at, found = 10, []
    while at < len(data):
        length, size = (data[at + 1], 1) if data[at + 1] < 128 else (data[at + 1] - 128 + 128 * data[at + 2], 2)
        at += 1 + size + length + 4
        found.append(at)
    assert found[-1] == len(data)
    return found


def test_a_file_cut_behind_any_segment_is_a_file():
    data = pack(LAYERED)
    read = [unpack(data[:end]) for end in ends(data)]
    assert [content.layers for content in read] == [
        (), ("semantic",), ("semantic",), ("semantic", "latent"), ("semantic", "latent", "residual"),
    ]  # fmt: skip
    assert [len(content.segments) for content in read] == [1, 2, 3, 3, 4] and read[-1] == LAYERED
    assert read[2].string is None and read[3].string == b"the latent"
    assert all(pack(content) == data[:end] for content, end in zip(read, ends(data), strict=True))
    with_latent = {content.seed for content in read if content.string is not None}
    assert len(with_latent) == 1, "the residual changes the noise"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_named_layers_are_read_whatever_follows_them(count):
    data, names = pack(LAYERED), LAYER_NAMES[:count]
    first, *_, start = [end for end in [*ends(data)] * 2 if unpack(data[:end]).layers == tuple(names)]
    whole = unpack(data, layers=names)
    assert whole.layers == tuple(names) and whole.seed == unpack(data[:start]).seed
    for length in range(start, len(data)):
        assert unpack(data[:length], layers=names) == whole
        assert unpack(data[:length] + b"damage", layers=names) == whole
    for length in range(first):
        with pytest.raises(StreamError):
            unpack(data[:length], layers=names)


def test_a_cut_file_says_which_of_its_layers_are_whole():
    data = pack(LAYERED)
    _, structure, texture, latent, _ = ends(data)
    wanted = {structure + 1: "", texture + 1: "semantic", latent - 1: "semantic", latent + 1: "semantic,latent"}
    for end, names in wanted.items():
        with pytest.raises(StreamError, match=f"layers {names}$" if names else "get it again$"):
            unpack(data[:end])
    plain = pack(replace(LAYERED, segments=tuple(part for part in LAYERED.segments if part.type == RESIDUAL)))
    with pytest.raises(StreamError, match="layers latent$"):
        unpack(plain[:-1])


def test_a_named_layer_that_is_damaged_is_not_called_missing():
    data = pack(LAYERED)
    *_, texture, latent, residual = ends(data)
    for at, name, whole in ((latent - 6, "latent", "semantic"), (residual - 6, "residual", "semantic, latent")):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        for bad in (damaged, data[:at], data[:at] + bytes(20)):
            with pytest.raises(
                StreamError, match=rf"the {name} layer is damaged, cut short or missing: .*\(whole is {whole}\)$"
            ):
                unpack(bad, layers=["semantic", name])
    assert texture < latent


def test_a_latent_alone_becomes_a_plain_file():
    latent = unpack(pack(LAYERED), layers=["latent"])
    assert latent.segments == (LAYERED.segments[0],) and latent.string == LAYERED.string
    alone = pack(example(segments=(Segment(type=48, data=b"more"),), string=b"yz"))
    content = unpack(alone[: -(2 + 4 + 4)])
    assert content == example(string=b"yz") and pack(content) == pack(example(string=b"yz"))


def test_layers_that_are_not_there():
    for data, name in (
        (pack(example()), "semantic"),
        (pack(example()), "residual"),
        (pack(LAYERED)[: ends(pack(LAYERED))[2]], "latent"),
    ):
        with pytest.raises(StreamError, match=f"the file has no {name} layer: it has"):
            unpack(data, layers=[name])
    assert unpack(pack(example()), layers=["latent"]) == example()
    for names, got in (((), "no layers"), (["foo"], "'foo'"), ("latent", "'latent'")):
        with pytest.raises(ConfigError, match=f"{got}.* wanted a list of semantic, latent, residual"):
            unpack(pack(example()), layers=names)
