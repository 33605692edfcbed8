"""TIFF: every depth, layout, compression and byte order; alpha of both kinds; the right page; what is not supported."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from priorcodec.core.errors import ImageError
from priorcodec.core.image import io as image_io
from tests.core.image.makers import LEFT, RIGHT, halves, middles, tiff, tiff_page
from tests.core.image.test_io import ADOBE, image, profile

FLAT = halves()


def refused(data, **options) -> str:
    with pytest.raises(ImageError) as caught:
        image_io.load(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def at_depth(pixels: np.ndarray, bits: int) -> np.ndarray:
    """8-bit pixels as samples of another depth, whose reduction gives them back."""
    if bits == 8:
        return pixels
    return (pixels.astype(np.uint16) << (bits - 8)) | (3 if bits > 9 else 0) if bits > 8 else pixels >> (8 - bits)


LAYOUTS = [
    (bits, planar, compression, predictor, order, tile)
    for bits, planar, compression, predictor, order, tile in itertools.product(
        (8, 10, 12, 16), (1, 2), (1, 5, 8, 32773), (1, 2), "<>", (None, 16)
    )
    if (predictor == 1 or (compression in (5, 8) and bits in (8, 16))) and (tile is None or bits != 10)
]


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_layout(bits, channels):
    pixels = image(37, 53)[..., :channels]
    count = 0
    for depth, planar, compression, predictor, order, tile in LAYOUTS:
        if depth == bits:
            page = tiff_page(
                at_depth(pixels, bits), bits=bits, planar=planar, compression=compression, predictor=predictor,
                order=order, tile=tile, photometric=2 if channels == 3 else 1,
            )  # fmt: skip
            loaded = image_io.load(tiff(page, order=order))
            what = (planar, compression, predictor, order, tile)
            assert np.array_equal(loaded.pixels, np.broadcast_to(pixels, (37, 53, 3))), what
            assert loaded.notes == (() if bits == 8 else (f"{bits} bits a sample cut to 8",)), what
            count += 1
    assert count >= 16


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bit_photo(planar, big):
    data = tiff(tiff_page(image().astype(np.uint16) * 257, bits=16, planar=planar), big=big)
    assert np.array_equal(image_io.load(data).pixels, image())
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(image_io.from_any(opened).pixels, image())


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_palette_and_white_is_zero(bits):
    top = 2**bits - 1
    index = halves((0,), (top,), (17, 33))
    pixels = image_io.load(tiff(tiff_page(index, bits=bits, photometric=1))).pixels
    assert middles(pixels) == ([0] * 3, [255] * 3)
    pixels = image_io.load(tiff(tiff_page(index, bits=bits, photometric=0))).pixels
    assert middles(pixels) == ([255] * 3, [0] * 3)
    colors = np.zeros((3, 2**bits), int)
    colors[:, 0], colors[:, top] = LEFT, RIGHT
    for scale in (257, 1):  # some writers use 8 of the map's 16 bits
        tags = {320: ("H", (colors * scale).ravel().tolist())}
        pixels = image_io.load(tiff(tiff_page(index, bits=bits, photometric=3, tags=tags))).pixels
        assert middles(pixels) == (list(LEFT), list(RIGHT))
    assert "palette" in refused(tiff(tiff_page(index, bits=bits, photometric=3, tags={320: ("H", [1, 2])})))


def test_sixteen_bit_gray_and_white_is_zero():
    gray = halves((64,), (192,)).astype(np.uint16) * 257
    for order in "<>":
        data = tiff(tiff_page(gray, bits=16, photometric=1, order=order), order=order)
        assert middles(image_io.load(data).pixels) == ([64] * 3, [192] * 3)
    data = tiff(tiff_page(65535 - gray, bits=16, photometric=0))
    assert middles(image_io.load(data).pixels) == ([64] * 3, [192] * 3)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("kind", [1, 2])
def test_alpha(bits, channels, planar, kind):
    """Left opaque, right half transparent; associated alpha (1) has been multiplied in."""
    full = 2**bits - 1
    color = halves(LEFT[:channels], RIGHT[:channels]).astype(float) / 255
    alpha = halves((255,), (0,)).astype(float)
    alpha[:, 32:] = 0.5
    alpha[:, :32] = 1
    stored = np.concatenate([color * alpha if kind == 1 else color, alpha], -1)
    stored = np.rint(stored * full).astype(np.uint8 if bits == 8 else np.uint16)
    data = tiff(tiff_page(stored, bits=bits, planar=planar, photometric=2 if channels == 3 else 1, extra=(kind,)))
    assert "transparent parts" in refused(data)
    for background, under in (("black", 0), ("white", 255)):
        left, right = middles(image_io.load(data, background=background).pixels)
        wanted = np.broadcast_to(LEFT[:channels], 3), np.broadcast_to(RIGHT[:channels], 3) * 0.5 + under * 0.5
        assert left == pytest.approx(wanted[0].tolist(), abs=1) and right == pytest.approx(wanted[1].tolist(), abs=1.5)


def test_opaque_and_unspecified_extra_channels():
    opaque = np.dstack([FLAT, np.full((64, 64), 255, np.uint8)])
    assert image_io.load(tiff(tiff_page(opaque, extra=(1,)))).notes == ()
    half = np.dstack([FLAT, np.full((64, 64), 7, np.uint8)])
    for extra in ((0,), ()):
        loaded = image_io.load(tiff(tiff_page(half, extra=extra)))
        assert np.array_equal(loaded.pixels, FLAT) and loaded.notes == ("1 extra channels left out",)


@pytest.mark.parametrize("marked", [{254: ("I", [1])}, {255: ("H", [2])}, {}])
def test_a_thumbnail_in_front_is_not_the_image(marked):
    small, large = FLAT[::4, ::4][:, :, ::-1], FLAT
    data = tiff(tiff_page(small, tags=marked), tiff_page(large))
    loaded = image_io.load(data)
    assert np.array_equal(loaded.pixels, large)
    assert loaded.notes == ("page 2 of 2 taken (64x64); others are 16x16",)
    behind = image_io.load(tiff(tiff_page(large), tiff_page(small, tags=marked)))
    assert np.array_equal(behind.pixels, large)
    assert behind.notes == ("page 1 of 2 taken (64x64); others are 16x16",)


def test_a_full_size_page_below_the_thumbnail():
    """As cameras' raw formats have it: the first directory is reduced and points to the others."""
    data = bytearray(tiff(tiff_page(FLAT)))
    below = int.from_bytes(data[4:8], "little")
    entries, parts = tiff_page(FLAT[::4, ::4], tags={254: ("I", [1]), 330: ("I", [below])})
    whole = tiff((entries, parts))  # its offsets are moved behind the first file
    shift = len(data)
    moved = bytearray(whole)
    at = int.from_bytes(whole[4:8], "little")
    count = int.from_bytes(whole[at : at + 2], "little")
    for i in range(count):
        offset = at + 2 + 12 * i
        tag, kind, number = (
            int.from_bytes(whole[offset + a : offset + b], "little") for a, b in ((0, 2), (2, 4), (4, 8))
        )
        value = int.from_bytes(whole[offset + 8 : offset + 12], "little")
        size = number * {3: 2, 4: 4}[kind]
        if size > 4:
            if tag == 273:
                for j in range(number):
                    item = int.from_bytes(whole[value + 4 * j : value + 4 * j + 4], "little")
                    moved[value + 4 * j : value + 4 * j + 4] = (item + shift).to_bytes(4, "little")
            moved[offset + 8 : offset + 12] = (value + shift).to_bytes(4, "little")
    data[4:8] = (at + shift).to_bytes(4, "little")
    assert np.array_equal(image_io.load(bytes(data + moved)).pixels, FLAT)


def test_orientation_profile_and_linear_precision():
    turned = image_io.load(tiff(tiff_page(FLAT.astype(np.uint16) * 257, bits=16, tags={274: ("H", [6])})))
    assert np.array_equal(turned.pixels, np.rot90(FLAT, -1))
    adobe = list(profile(**ADOBE))
    eight = image_io.load(tiff(tiff_page(FLAT, tags={34675: ("B", adobe)})))
    deep = image_io.load(tiff(tiff_page(FLAT.astype(np.uint16) * 257, bits=16, tags={34675: ("B", adobe)})))
    assert "converted from test" in eight.notes[0] and "converted from test" in deep.notes[1]
    assert np.abs(eight.pixels.astype(int) - deep.pixels).max() <= 1
    dark = np.broadcast_to(np.arange(256, dtype=np.uint16)[None, :, None], (8, 256, 1))
    gray = list(profile(*[()] * 3, gamma=1.0, space=b"GRAY"))
    loaded = image_io.load(tiff(tiff_page(dark, bits=16, photometric=1, tags={34675: ("B", gray)})))
    assert len(np.unique(loaded.pixels)) > 12  # cut to 8 bits first there would be one


@pytest.mark.parametrize("kind, name", [(2, "signed"), (3, "floating-point")])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_sample_formats_are_one_line(kind, name, channels):
    page = tiff_page(
        FLAT[..., :channels].astype(np.uint16), bits=16, photometric=1, tags={339: ("H", [kind] * channels)}
    )
    assert f"{name} samples of 16 bits are not supported: wanted 8 or 16 bit" in refused(tiff(page))
    float32 = Image.fromarray(np.ones((4, 4), np.float32))
    out = io.BytesIO()
    float32.save(out, "TIFF")
    assert "floating-point samples of 32 bits" in refused(out.getvalue())


def test_lab_and_what_pillow_decodes():
    lab = Image.new("LAB", (8, 8), (137, 128 + 40, 128 - 30))
    out = io.BytesIO()
    lab.save(out, "TIFF")
    loaded = image_io.load(out.getvalue())
    assert loaded.notes == ("colors converted from CIELAB to sRGB",)
    red, green, blue = loaded.pixels[4, 4].astype(int)
    assert red > green and blue > green
    for compression in ("jpeg", "group4"):
        out = io.BytesIO()
        source = Image.fromarray(image()) if compression == "jpeg" else Image.fromarray(image()[..., 0]).convert("1")
        source.save(out, "TIFF", compression=compression)
        loaded = image_io.load(out.getvalue())
        assert np.abs(loaded.pixels.astype(int) - np.asarray(source.convert("RGB"))).max() <= 30


def test_hostile_directories():
    page = tiff_page(FLAT)
    assert "no page" in refused(b"II*\0\0\0\0\0") and "directory" in refused(b"II*\0\xff\xff\0\0")
    assert "65535x65535, with its padding 65536x65536, more than" in refused(
        tiff(tiff_page(FLAT, tags={256: ("I", [65535]), 257: ("I", [65535])}))
    )
    assert "missing" in refused(tiff(tiff_page(FLAT, tags={278: ("I", [1])})))
    assert "parts of" in refused(tiff(tiff_page(FLAT, tile=16, tags={322: ("I", [2**31]), 323: ("I", [2**31])})))
    assert "samples of 8 bits" in refused(tiff(tiff_page(FLAT, tags={277: ("H", [60000])})))
    assert "predictor 3" in refused(tiff(tiff_page(FLAT, tags={317: ("H", [3])})))
    loop = bytearray(tiff(page))
    loop[-4:] = loop[4:8]  # the next page is this one
    assert np.array_equal(image_io.load(bytes(loop)).pixels, FLAT)


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_damaged_and_short_strips(compression):
    entries, parts = tiff_page(FLAT, compression=compression)
    assert "damaged" in refused(tiff((entries, [parts[0][: len(parts[0]) // 2], *parts[1:]])))
    if compression == 8:
        wrong = parts[0][:-1] + bytes([parts[0][-1] ^ 1])  # the checksum of zlib
        assert "incorrect data check" in refused(tiff((entries, [wrong, *parts[1:]])))


def test_a_file_cut_anywhere_is_never_read_as_another_image():
    for options in ({"tags": {34675: ("B", list(profile(**ADOBE)))}}, {"planar": 2}):
        data = tiff(tiff_page(FLAT, **options))
        whole = image_io.load(data).pixels
        for length in range(len(data)):
            try:
                loaded = image_io.load(data[:length])
            except ImageError as error:
                assert "damaged" in str(error) or "image" in str(error)
            else:
                assert np.array_equal(loaded.pixels, whole) or loaded.damaged, length
    pillow = io.BytesIO()
    Image.fromarray(FLAT).save(pillow, "TIFF", compression="tiff_lzw")  # the values of its tags come last
    assert "the value of tag 258 lies outside the file" in refused(pillow.getvalue()[:-1])


@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk_and_what_is_too_deep_for_lab(bits):
    cmyk = halves((0, 255, 255, 0), (255, 0, 255, 0)).astype(np.uint16) * (257 if bits == 16 else 1)
    loaded = image_io.load(tiff(tiff_page(cmyk, bits=bits, photometric=5)))
    assert middles(loaded.pixels) == ([255, 0, 0], [0, 255, 0]) and "without a profile" in loaded.notes[-1]
    if bits == 16:
        assert "photometric type 8" in refused(tiff(tiff_page(cmyk[..., :3], bits=16, photometric=8)))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_damage_in_jpeg_compressed_strips_is_reported(mode):
    file = io.BytesIO()
    Image.fromarray(image(200, 300)).convert(mode).save(file, "TIFF", compression="jpeg", quality=95)
    whole = file.getvalue()
    assert not image_io.load(whole).damaged
    middle = len(whole) // 2
    assert image_io.load(whole[:middle] + b"\xff\xd9" * 50 + whole[middle + 100 :]).damaged
