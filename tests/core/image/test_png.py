"""PNG: chunks that decide pixels and chunks that must not, transparency at every depth, precedence of color chunks."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from priorcodec.core.errors import ImageError
from priorcodec.core.image import io as image_io
from tests.core.image.makers import LEFT, RIGHT, chunk, halves, middles, png
from tests.core.image.test_io import ADOBE, SRGB, profile

FLAT = halves()
SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_CHRM = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def gama(value: float, **options) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100000)), **options)


def chrm(values) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *values))


def cicp(primaries, transfer, matrix=0) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, matrix, 1]))


def iccp(icc: bytes) -> bytes:
    return chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))


def refused(data, **options) -> str:
    with pytest.raises(ImageError) as caught:
        image_io.load(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3 * 2**20))),  # more than Pillow unpacks
        chunk(b"tEXt", b"prompt\0" + b"x" * 2**21),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<" * 2**21)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6'/>"),
        chunk(b"zTXt", b"broken\0\0not zlib"),
        chunk(b"tEXt", b"no separator", crc=1),
        chunk(b"tIME", b"", crc=1) + chunk(b"prIv", b"anything") + chunk(b"pHYs", b"short"),
    ],
)
def test_text_and_unknown_chunks_never_matter(text):
    for data in (png(FLAT, text), png(FLAT, after=text)):
        loaded = image_io.load(data)
        assert np.array_equal(loaded.pixels, FLAT) and loaded.notes == ()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparency_of_gray_at_every_depth(depth):
    top = 2**depth - 1
    samples = halves((0,), (0,))[..., 0].astype(np.uint16)
    samples[:, 32:] = top
    if depth == 16:
        samples[0, 40] = top - 1  # the same high byte as the key
    data = png(samples, chunk(b"tRNS", struct.pack(">H", top)), depth=depth, kind=0)
    assert "transparent parts" in refused(data)
    pixels = image_io.load(data, background="#ff0000").pixels
    assert middles(pixels) == ([0, 0, 0], [255, 0, 0])
    if depth == 16:
        assert pixels[0, 40].tolist() == [255, 255, 255]


@pytest.mark.parametrize("depth", [8, 16])
def test_transparency_of_rgb_at_every_depth(depth):
    samples = FLAT.astype(np.uint16) * (257 if depth == 16 else 1)
    samples[0, 0, 2] += 1  # not quite the key
    data = png(samples, chunk(b"tRNS", struct.pack(">3H", *(int(v) for v in samples[32, 16]))), depth=depth)
    assert "transparent parts" in refused(data)
    pixels = image_io.load(data, background="blue").pixels
    assert middles(pixels) == ([0, 0, 255], list(RIGHT))
    assert pixels[0, 0].tolist() == [200, 40, 60 + (depth == 8)]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_with_transparency(depth):
    index = halves((0,), (1,))[..., 0]
    palette = chunk(b"PLTE", bytes([*LEFT, *RIGHT]))
    assert middles(image_io.load(png(index, palette, depth=depth, kind=3)).pixels) == (list(LEFT), list(RIGHT))
    data = png(index, palette, chunk(b"tRNS", b"\xff\x80"), depth=depth, kind=3)
    assert "transparent parts" in refused(data)
    half = [round(v * 128 / 255) for v in RIGHT]
    pixels = image_io.load(data, background="black").pixels
    assert middles(pixels)[0] == list(LEFT) and middles(pixels)[1] == pytest.approx(half, abs=1)
    assert "palette" in refused(png(index, depth=depth, kind=3))


@pytest.mark.parametrize("kind, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_whole(kind, channels):
    """Every value survives to the color conversion: seen through a color space that lifts the dark ones."""
    samples = np.zeros((16, 256, channels), np.uint16)
    samples[..., : channels - (kind in (4, 6))] = np.arange(256, dtype=np.uint16)[None, :, None]  # high bytes all 0
    if kind in (4, 6):
        samples[..., -1] = 65535
    linear = np.arange(256) / 65535
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    for color in (
        gama(1.0),
        cicp(1, 8),
        iccp(profile(**SRGB, gamma=1.0)),
    ):
        loaded = image_io.load(png(samples, color, depth=16, kind=kind))
        assert np.abs(loaded.pixels - wanted[None, :, None]).max() < 0.6
        assert "16 bits a sample cut to 8" in loaded.notes and "sRGB" in loaded.notes[1]


@pytest.mark.parametrize("depth", [8, 16])
def test_a_profile_whose_curve_is_cut_short_is_left_out_at_any_depth(depth):
    icc = bytearray(profile(**SRGB, gamma=1.0))
    at = icc.index(b"rTRC", 128)
    icc[at + 8 : at + 12] = struct.pack(">I", 12)
    loaded = image_io.load(png(np.full((4, 4, 3), (1 << depth) - 1, np.uint16), iccp(bytes(icc)), depth=depth))
    assert (loaded.pixels == 255).all()


def test_precedence_of_color_chunks():
    icc = iccp(profile(**ADOBE))
    srgb = chunk(b"sRGB", b"\0")
    p3 = image_io.load(png(FLAT, cicp(12, 13))).pixels
    adobe = image_io.load(png(FLAT, icc)).pixels
    linear = image_io.load(png(FLAT, gama(1.0))).pixels
    assert middles(p3) == ([218, 0, 54], [0, 183, 78])
    assert len({a.tobytes() for a in (FLAT, p3, adobe, linear)}) == 4
    for chunks, wanted in (
        ((cicp(12, 13), icc, gama(1.0), chrm(P3_CHRM)), p3),
        ((gama(1.0), srgb, icc, cicp(12, 13)), p3),  # whatever their order
        ((icc, gama(1.0), chrm(P3_CHRM)), adobe),
        ((srgb, gama(1.0), chrm(P3_CHRM)), FLAT),
        ((gama(1.0), chrm(SRGB_CHRM)), linear),
        ((cicp(12, 13, matrix=1), gama(1.0)), linear),  # PNG has RGB only: such a chunk is invalid
        ((cicp(1, 13), icc), FLAT),
        ((cicp(2, 2),), FLAT),
    ):
        assert np.array_equal(image_io.load(png(FLAT, *chunks)).pixels, wanted)


@pytest.mark.parametrize(
    "chunks", [(), (gama(0.45455),), (gama(0.45455), chrm(SRGB_CHRM)), (gama(0.4545),), (gama(0),)]
)
def test_the_usual_gamma_changes_no_pixel(chunks):
    noise = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)
    loaded = image_io.load(png(noise, *chunks))
    assert np.array_equal(loaded.pixels, noise)
    assert loaded.notes == (("impossible gamma 0 ignored",) if gama(0) in chunks else ())


def test_gamma_and_primaries_are_converted():
    loaded = image_io.load(png(FLAT, gama(1.0)))
    assert middles(loaded.pixels) == ([229, 110, 133], [133, 219, 160])  # sRGB of linear v / 255
    assert loaded.notes == ("colors converted from gamma 1 to sRGB",)
    moved = image_io.load(png(FLAT, gama(0.45455), chrm(P3_CHRM)))
    assert middles(moved.pixels) == ([218, 0, 54], [0, 183, 78]) and "primaries" in moved.notes[0]
    line = image_io.load(png(FLAT, chrm((31270, 32900, *[30000, 30000] * 3))))
    assert np.array_equal(line.pixels, FLAT) and "impossible cHRM" in line.notes[0]
    dark = image_io.load(png(FLAT, gama(1 / 1.8)))
    assert dark.pixels[32, 16, 1] == pytest.approx(255 * (1.055 * (40 / 255) ** (1.8 / 2.4) - 0.055), abs=1)


@pytest.mark.parametrize(
    "chunks",
    [(gama(1.0),), (gama(0.45455), chrm(P3_CHRM)), (gama(1 / 1.8), chrm(P3_CHRM)), (chunk(b"sRGB", b"\0"), gama(1.0))],
)
def test_a_loaded_pillow_image_has_the_colors_of_its_file(chunks):
    data = png(FLAT, *chunks)
    wanted, opened = image_io.load(data).pixels, Image.open(io.BytesIO(data))
    opened.load()
    for image in (opened, opened.copy(), opened.convert("RGBA")):
        assert np.array_equal(image_io.from_any(image).pixels, wanted)


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused_in_one_line(transfer, name):
    assert f"high dynamic range ({name}, CICP 9/{transfer}) is not supported: convert" in refused(
        png(FLAT, cicp(9, transfer))
    )


def test_unknown_code_points_are_a_note():
    loaded = image_io.load(png(FLAT, cicp(77, 99)))
    assert np.array_equal(loaded.pixels, FLAT)
    assert loaded.notes == (
        "unknown CICP primaries 77 taken as sRGB's", "unknown CICP transfer 99 taken as sRGB's",
    )  # fmt: skip


@pytest.mark.parametrize("name", [b"gAMA", b"cHRM", b"iCCP", b"tRNS", b"eXIf", b"cICP"])
def test_a_damaged_ancillary_chunk_is_left_out_with_a_note(name):
    loaded = image_io.load(png(FLAT, chunk(name, bytes([9, 16, 0, 1]), crc=1)))
    assert np.array_equal(loaded.pixels, FLAT) and not loaded.damaged
    assert loaded.notes == (f"the {name.decode()} chunk fails its checksum: it is ignored",)


def test_damaged_image_data_is_reported():
    data = bytearray(png(FLAT))
    data[-20] ^= 1  # the chunk's checksum
    at = data.index(b"IDAT")
    data = bytearray(png(FLAT))
    size = struct.unpack(">I", data[at - 4 : at])[0]
    data[at + 4 + size] ^= 1
    loaded = image_io.load(bytes(data))
    assert np.array_equal(loaded.pixels, FLAT) and loaded.damaged
    assert loaded.notes == ("damaged: the IDAT chunk fails its checksum, parts of the image may be wrong",)


def test_pixels_that_fail_the_checksum_of_zlib_are_refused():
    """Also where the checksum arrives in a chunk of its own, after Pillow has all rows and looks no more."""
    noise = np.random.default_rng(2).integers(0, 256, (200, 200, 3), np.uint8)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise))
    split = [chunk(b"IDAT", packed[i : i + 1000]) for i in range(0, len(packed), 1000)]
    assert image_io.load(png(noise, data=b"".join(split))).notes == ()
    assert "damaged" in refused(png(noise, data=chunk(b"IDAT", packed[:-4]) + chunk(b"IDAT", b"abcd")))
    changed = bytearray(packed)
    changed[len(packed) // 2] ^= 1  # noise is stored, not compressed: still a valid stream
    assert "damaged" in refused(png(noise, data=chunk(b"IDAT", bytes(changed))))


def test_what_cannot_be_right_is_refused():
    assert "image header fails its checksum" in refused(png(FLAT, header_crc=1))
    assert "unknown critical chunk" in refused(png(FLAT, chunk(b"ABCD", b"")))
    assert "color type 5" in refused(png(FLAT, kind=5))
    assert "no image header" in refused(b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""))


def test_orientation_and_an_srgb_profile():
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x05\0\0\0\0\0\0"
    for data in (png(FLAT, chunk(b"eXIf", exif)), png(FLAT, after=chunk(b"eXIf", exif))):
        assert np.array_equal(image_io.load(data).pixels, FLAT.swapaxes(0, 1))
    broken = image_io.load(png(FLAT, chunk(b"eXIf", b"nonsense")))
    assert np.array_equal(broken.pixels, FLAT) and broken.notes == ("unreadable EXIF data ignored",)
    srgb = iccp(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    deep = image_io.load(png(FLAT.astype(np.uint16) * 256 + 9, srgb, depth=16))
    assert np.array_equal(deep.pixels, FLAT) and deep.notes == ("16 bits a sample cut to 8",)


def test_interlaced_sixteen_bits():
    """Adam7 of one pixel a pass: 1x1 is the simplest interlaced image, and takes the same way."""
    data = bytearray(png(np.array([[[51200, 10240, 15360]]]), depth=16))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert image_io.load(bytes(data)).pixels[0, 0].tolist() == [200, 40, 60]


@pytest.mark.parametrize("kept", [1, 63])
def test_image_data_that_ends_early_is_reported(kept):
    rows = b"".join(b"\0" + row.tobytes() for row in FLAT)
    whole, black = zlib.compress(rows), zlib.compress(rows[: -len(rows) // 64] + bytes(len(rows) // 64))
    short = zlib.compress(rows[: kept * len(rows) // 64])
    assert any(
        "damaged: the image data ends early" in note
        for note in image_io.load(png(FLAT, data=chunk(b"IDAT", short))).notes
    )
    for data in (whole, black):  # black rows are no damage
        assert image_io.load(png(FLAT, data=chunk(b"IDAT", data))).notes == ()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 8), (21, 17)])
def test_interlaced_image_data_that_ends_early_is_reported(size):
    pixels = np.zeros((*size, 3), np.uint8)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [pixels[y::dy, x::dx] for x, y, dx, dy in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    last = 1 + 3 * size[1] if size[0] > 1 else len(rows) // 2  # a whole row: Pillow refuses half a one
    for data, damaged in ((rows, False), (rows[:-last], True)):
        file = bytearray(png(pixels, data=chunk(b"IDAT", zlib.compress(data))))
        file[28] = 1  # interlaced
        file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
        try:
            assert image_io.load(bytes(file)).damaged is damaged
        except ImageError:
            assert damaged


def test_palette_indices_without_a_color_are_reported():
    index = np.zeros((8, 8), np.uint8)
    index[4, 4] = 2
    palette = bytes([10, 20, 30, 40, 50, 60])
    loaded = image_io.load(png(index, chunk(b"PLTE", palette), kind=3))
    assert loaded.damaged and loaded.pixels[0, 0].tolist() == [10, 20, 30]
    assert not image_io.load(png(index // 2, chunk(b"PLTE", palette), kind=3)).damaged


def test_odd_cicp_chunks_are_not_passed_over_in_silence():
    assert "narrow-range samples" in refused(png(FLAT, chunk(b"cICP", bytes([1, 13, 0, 0]))))
    loaded = image_io.load(png(FLAT, chunk(b"cICP", b"\x0c")))
    assert np.array_equal(loaded.pixels, FLAT) and loaded.notes == ("cICP chunk of 1 bytes ignored, PNG wants 4",)
