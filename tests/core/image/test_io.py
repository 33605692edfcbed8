"""Images in and out, on real files of each format, made here."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from priorcodec.core.errors import ImageError, PriorCodecError
from priorcodec.core.image import io as image_io

FORMATS = {
    "png": {},
    "jpg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True},
    "avif": {"quality": 95, "subsampling": "4:4:4"},
    "tiff": {},
}


def image(height=40, width=56) -> np.ndarray:
    """Smooth, and different in every corner and channel."""
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]  # fmt: skip
    return np.stack([200 * x + 20, 200 * y + 20, 220 - 100 * x - 100 * y], -1).astype(np.uint8)


def encoded(array: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(out, format, **options)
    return out.getvalue()


def refused(source, **options) -> str:
    with pytest.raises(ImageError) as caught:
        image_io.load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def profile(red, green, blue, gamma=2.2, space=b"RGB ") -> bytes:
    """A minimal ICC version 2 matrix profile (or gray one): D50 XYZ of the primaries, one gamma."""

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
    white = xyz((0.9642, 1.0, 0.8249))
    tags = [(b"desc", text), (b"cprt", b"text\0\0\0\0none\0\0\0\0"), (b"wtpt", white)]
    if space == b"GRAY":
        tags += [(b"kTRC", curve)]
    else:
        tags += [(b"rXYZ", xyz(red)), (b"gXYZ", xyz(green)), (b"bXYZ", xyz(blue))]
        tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, blobs, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, blob in tags:
        table += name + struct.pack(">II", offset + len(blobs), len(blob))
        blobs += blob + bytes(-len(blob) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s", offset + len(blobs), b"none", 0x02100000, b"mntr", space, b"XYZ ", bytes(12), b"acsp"
    )
    head += bytes(68 - len(head)) + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + blobs


SRGB = {"red": (0.43607, 0.22249, 0.01392), "green": (0.38515, 0.71687, 0.09708), "blue": (0.14307, 0.06061, 0.7141)}
ADOBE = {"red": (0.60974, 0.31111, 0.01947), "green": (0.20528, 0.62567, 0.06087), "blue": (0.14919, 0.06322, 0.74457)}


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_from_path_bytes_and_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(image()).save(path, **FORMATS[suffix])
    loaded = image_io.load(path)
    assert loaded.notes == ()
    assert loaded.pixels.dtype == np.uint8 and loaded.pixels.shape == (40, 56, 3)
    limit = 0 if suffix in ("png", "webp", "tiff") else 6
    assert np.abs(loaded.pixels.astype(int) - image()).max() <= limit
    assert np.array_equal(image_io.load(str(path)).pixels, loaded.pixels)
    assert np.array_equal(image_io.load(path.read_bytes()).pixels, loaded.pixels)
    with path.open("rb") as file:
        assert np.array_equal(image_io.load(file).pixels, loaded.pixels)
        assert not file.closed


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image(), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    assert np.array_equal(image_io.load(data).pixels, TURNS[orientation](image()))


@pytest.mark.parametrize("format", ["JPEG", "AVIF"])
def test_orientation_is_applied_in_lossy_formats(format):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = image_io.load(encoded(image(), format, exif=exif, quality=95, subsampling="4:4:4")).pixels
    assert np.abs(pixels.astype(int) - TURNS[6](image())).max() <= 6


def test_damaged_exif_is_no_obstacle():
    dice = np.random.default_rng(1)
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Maker", 0x0131: "Software"})
    for _ in range(200):
        changed = bytearray(exif.tobytes())
        for at in dice.integers(6, len(changed), 2):
            changed[at] = dice.integers(256)
        pixels = image_io.load(encoded(image(), "JPEG", exif=bytes(changed))).pixels
        assert pixels.shape in {(40, 56, 3), (56, 40, 3)}


def test_orientation_survives_damage_elsewhere():
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Maker"})
    data = bytearray(exif.tobytes())
    data[data.index(b"\x01\x0f\x00\x02") + 3] = 10  # the text now claims to be a fraction
    assert image_io.load(encoded(image(), "JPEG", exif=bytes(data))).pixels.shape == (56, 40, 3)


def test_unreadable_exif_is_a_note(monkeypatch):
    assert image_io.load(encoded(image(), "JPEG", exif=b"Exif\0\0nonsense")).notes == ("unreadable EXIF data ignored",)
    monkeypatch.setattr(Image.Image, "getexif", lambda self: 1 / 0)
    with Image.open(io.BytesIO(encoded(image(), "PNG"))) as opened:
        opened.load()
        assert image_io.from_any(opened).notes == ("unreadable EXIF data ignored",)
    assert image_io.from_any(Image.fromarray(image())).notes == ()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_a_foreign_profile_is_converted(format):
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format in ("JPEG", "AVIF") else {}
    flat = np.full((32, 32, 3), (200, 120, 60), np.uint8)
    loaded = image_io.load(encoded(flat, format, icc_profile=profile(**ADOBE), **options))
    linear = (np.array([200, 120, 60]) / 255) ** (563 / 256)
    xyz = np.array([ADOBE["red"], ADOBE["green"], ADOBE["blue"]]).T @ linear
    srgb = np.linalg.solve(np.array([SRGB["red"], SRGB["green"], SRGB["blue"]]).T, xyz)
    wanted = 255 * np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb.clip(0.001) ** (1 / 2.4) - 0.055)
    assert wanted[0] > 220  # the conversion matters here
    assert np.abs(loaded.pixels[16, 16] - wanted).max() <= (2 if format in ("PNG", "WEBP", "TIFF") else 5)
    assert loaded.notes == ("colors converted from test to sRGB",)


def test_a_profile_with_red_and_blue_swapped_swaps_them():
    swapped = profile(SRGB["blue"], SRGB["green"], SRGB["red"], gamma=2.2)
    pixels = image_io.load(encoded(image(), icc_profile=swapped)).pixels
    assert np.abs(pixels[..., ::-1].astype(int) - image()).max() <= 8  # gamma 2.2 is not quite sRGB's curve


def test_an_srgb_profile_changes_not_one_pixel():
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    loaded = image_io.load(encoded(noise, icc_profile=icc))
    assert np.array_equal(loaded.pixels, noise) and loaded.notes == ()


def test_gray_profiles():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    linear = image_io.load(encoded(ramp, icc_profile=profile(*[()] * 3, gamma=1.0, space=b"GRAY")))
    assert "converted" in linear.notes[0]
    assert linear.pixels[8, 0].tolist() == pytest.approx([188] * 3, abs=1)  # linear 128/255 is sRGB 188
    rgb = image_io.load(encoded(ramp, icc_profile=profile(**ADOBE)))
    assert np.ptp(rgb.pixels.astype(int), axis=2).max() <= 1


@pytest.mark.parametrize("icc", [b"not a profile at all", b"\0" * 200, profile(**ADOBE)[:-60], profile(**ADOBE)[:128]])
def test_a_broken_profile_is_a_note(icc):
    loaded = image_io.load(encoded(image(), icc_profile=icc))
    assert np.array_equal(loaded.pixels, image())
    assert loaded.notes[0].startswith("unusable color profile ignored") and "\n" not in loaded.notes[0]


def test_a_profile_for_other_pixels_is_a_note():
    loaded = image_io.load(encoded(image(), icc_profile=profile(*[()] * 3, space=b"GRAY")))
    assert np.array_equal(loaded.pixels, image()) and "it is for GRAY pixels" in loaded.notes[0]


def test_gray_bilevel_and_palette_become_rgb():
    gray = image()[..., 0]
    assert np.array_equal(image_io.load(encoded(gray)).pixels, np.repeat(gray[..., None], 3, 2))
    bits = Image.fromarray(gray).convert("1")
    assert set(np.unique(image_io.load(encoded(bits)).pixels)) == {0, 255}
    palette = Image.fromarray(image()).quantize(16)
    assert np.array_equal(image_io.load(encoded(palette)).pixels, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format):
    cmyk = Image.fromarray(image()).convert("CMYK")
    loaded = image_io.load(encoded(cmyk, format, **({"quality": 95} if format == "JPEG" else {})))
    assert np.abs(loaded.pixels.astype(int) - image()).max() <= 16
    assert "without a profile" in loaded.notes[0]
    wrong = image_io.load(encoded(cmyk, format, icc_profile=profile(**ADOBE)))
    assert "it is for RGB pixels, the image has CMYK" in wrong.notes[0]


def png16(samples: np.ndarray, color_type: int) -> bytes:
    """A 16-bit PNG, which Pillow reads but cannot write in color."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_is_cut_to_8_with_a_note():
    color = image().astype(np.uint16) * 256 + 77
    for data in (png16(color, 2), png16(np.dstack([color, np.full((40, 56), 65535)]), 6)):
        loaded = image_io.load(data)
        assert np.array_equal(loaded.pixels, image()) and loaded.notes == ("16 bits a sample cut to 8",)
    gray = color[..., 0]
    for data in (png16(gray, 0), encoded(gray, "TIFF"), png16(np.dstack([gray, np.full((40, 56), 65535)]), 4)):
        loaded = image_io.load(data)
        assert np.array_equal(loaded.pixels, np.repeat(image()[..., :1], 3, 2))
        assert loaded.notes == ("16 bits a sample cut to 8",)
    upside_down = encoded(gray, "TIFF", tiffinfo={262: 0})
    assert np.array_equal(image_io.load(upside_down).pixels[..., 0], (65535 - gray) >> 8)


def test_float_samples_are_refused():
    assert "wanted 8 or 16 bit" in refused(encoded(Image.fromarray(image()[..., 0].astype(np.float32)), "TIFF"))


def transparent(mode: str) -> Image.Image:
    rgba = Image.fromarray(np.dstack([image(), np.full((40, 56), 255, np.uint8)]))
    rgba.putpixel((3, 2), (10, 20, 30, 0))
    rgba.putpixel((5, 2), (100, 100, 100, 128))
    return rgba.convert(mode)


@pytest.mark.parametrize(
    "format, mode", [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("AVIF", "RGBA"), ("TIFF", "RGBA")]
)
def test_alpha_needs_a_background(format, mode):
    data = encoded(transparent(mode), format, **({"lossless": True} if format == "WEBP" else {}))
    assert "give a background color" in refused(data)
    white, black = (image_io.load(data, background=color).pixels for color in ("white", "#000000"))
    assert white[2, 3].tolist() == pytest.approx([255] * 3, abs=4)
    assert black[2, 3].tolist() == pytest.approx([0] * 3, abs=4)
    if format != "AVIF":
        half = 100 * 128 / 255
        assert black[2, 5].tolist() == pytest.approx([half] * 3, abs=1)
        assert white[2, 5].tolist() == pytest.approx([half + 127] * 3, abs=1)
        assert np.array_equal(white[10:], black[10:])


def test_palette_and_color_key_transparency():
    palette = Image.fromarray(image()).quantize(16)
    data = encoded(palette, transparency=palette.getpixel((0, 0)))
    assert "transparent parts" in refused(data)
    assert image_io.load(data, background="#ff0000").pixels[0, 0].tolist() == [255, 0, 0]
    data = encoded(image(), transparency=tuple(int(v) for v in image()[0, 0]))
    assert image_io.load(data, background="blue").pixels[0, 0].tolist() == [0, 0, 255]


def test_opaque_alpha_is_no_obstacle():
    opaque = np.dstack([image(), np.full((40, 56), 255, np.uint8)])
    assert np.array_equal(image_io.load(encoded(opaque)).pixels, image())


@pytest.mark.parametrize("background", ["reddish", "#12", "", "#ff000080"])
def test_a_background_that_is_no_color(background):
    assert "is no color" in refused(encoded(image()), background=background)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_of_several_frames(format):
    frames = [Image.fromarray(a) for a in (image(), image()[::-1], image()[:, ::-1])]
    data = encoded(
        frames[0], format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {})
    )
    loaded = image_io.load(data)
    assert loaded.notes == ("only one of 3 frames or pages",)
    assert np.abs(loaded.pixels.astype(int) - image()).max() <= 16


@pytest.mark.parametrize("suffix", FORMATS)
def test_cut_files_are_refused(suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(noise, "JPEG" if suffix == "jpg" else suffix.upper(), **FORMATS[suffix])
    for part in (0.02, 0.3, 0.6, 0.9):
        refused(data[: int(part * len(data))])


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_refused_or_read(suffix):
    dice = np.random.default_rng(3)
    data = encoded(image(), "JPEG" if suffix == "jpg" else suffix.upper(), **FORMATS[suffix])
    for _ in range(100):
        changed = bytearray(data)
        for at in dice.integers(0, len(data), 3):
            changed[at] = dice.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert image_io.load(bytes(changed), background="white", max_pixels=10**6).pixels.shape[2] == 3
            except ImageError as error:
                assert "\n" not in str(error)


def test_a_damaged_file_given_as_a_pillow_image_is_reported():
    from priorcodec.core.errors import ImageWarning

    for format in ("PNG", "JPEG"):
        data = bytearray(encoded(image(120, 120), format))
        if format == "PNG":
            data[-16] ^= 1  # the checksum of the pixels
        else:
            data[-300:-260] = b"\xff\xd9" * 20  # the scan ends early
        with pytest.warns(ImageWarning, match="damaged"):
            wanted = image_io.from_any(bytes(data))
        with pytest.warns(ImageWarning, match="damaged"), Image.open(io.BytesIO(data)) as lazy:
            loaded = image_io.from_any(lazy)
        assert loaded.notes == wanted.notes and np.array_equal(loaded.pixels, wanted.pixels)


def test_a_jpeg_to_be_read_at_half_its_size_stays_that():
    with Image.open(io.BytesIO(encoded(image(120, 120), "JPEG"))) as lazy:
        lazy.draft("RGB", (60, 60))
        assert image_io.from_any(lazy).pixels.shape == (60, 60, 3)


def test_closed_images_and_small_floats():
    import torch

    lazy = Image.open(io.BytesIO(encoded(image())))
    lazy.close()
    with pytest.raises(ImageError, match="is closed: pass it before that"):
        image_io.from_any(lazy)
    x = torch.linspace(-1, 1, 3 * 8 * 8).view(3, 8, 8).to(torch.float8_e4m3fn)
    assert image_io.from_any(x).pixels.shape == (8, 8, 3)


def test_what_is_no_image(tmp_path):
    for data in (b"", b"hello", bytes(1000), b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        assert "wanted PNG, JPEG, WebP, AVIF or TIFF" in refused(data)
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    assert refused(text).startswith(str(text))
    assert "No such file" in refused(tmp_path / "none.png")
    assert "directory" in refused(tmp_path)


def test_max_pixels_before_decoding():
    assert "56x40, with its padding 64x64, more than 4095 pixels" in refused(encoded(image()), max_pixels=4095)
    assert image_io.load(encoded(image()), max_pixels=4096).pixels.size
    bomb = bytearray(encoded(image()))
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "60000x60000, with its padding 60032x60032, more than 67108864 pixels" in refused(bytes(bomb))
    assert before == Image.MAX_IMAGE_PIXELS


def test_pillows_own_limit_does_not_interfere(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix, options in FORMATS.items():
            data = encoded(image(), "JPEG" if suffix == "jpg" else suffix.upper(), **options)
            assert image_io.load(data).pixels.shape == (40, 56, 3)


def test_from_any():
    x = image_io.to_tensor(image())
    for source in (
        image(), Image.fromarray(image()), encoded(image()), io.BytesIO(encoded(image())), x, x[0], x.double(),
        torch.from_numpy(image()).permute(2, 0, 1), np.asfortranarray(image()),
    ):  # fmt: skip
        assert np.array_equal(image_io.from_any(source).pixels, image())
    assert image_io.from_any(image()[..., 0]).pixels.shape == (40, 56, 3)
    assert image_io.from_any(np.asarray(transparent("RGBA")), background="white").pixels[2, 3].tolist() == [255] * 3


@pytest.mark.parametrize(
    "source, says",
    [
        (image() / 255, "float64 array"), (image().astype(np.int32), "int32 array"),
        (image()[None], "wanted uint8"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"), (np.asarray(transparent("RGBA")), "transparent"),
        (torch.zeros(3, 0, 4), "tensor of shape (3, 0, 4)"), (torch.zeros(2, 3, 4, 4), "(2, 3, 4, 4)"),
        (torch.zeros(4, 4, 3), "(4, 4, 3)"), (torch.full((3, 4, 4), 255.0), "wanted [-1, 1]"),
        (torch.full((3, 4, 4), float("nan")), "not numbers"), (torch.zeros(3, 4, 4, dtype=torch.int64), "torch.int64"),
        (42, "got int"), (None, "got NoneType"),
    ],
)  # fmt: skip
def test_from_any_refuses(source, says):
    with pytest.raises(ImageError) as caught:
        image_io.from_any(source)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [image(), torch.zeros(3, 40, 56), Image.fromarray(image())])
def test_from_any_minds_max_pixels(source):
    with pytest.raises(ImageError, match="56x40"):
        image_io.from_any(source, max_pixels=2239)


def test_tensor_and_back_is_exact():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    x = image_io.to_tensor(every)
    assert x.shape == (1, 3, 16, 16) and x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert np.array_equal(image_io.to_pixels(x), every)


def test_to_pixels_clamps_and_rounds_halves_up():
    levels = torch.tensor([-50.0, -0.4, 0.51, 1.49, 2.51, 254.51, 300.0, 127.5])
    x = (levels / 127.5 - 1).expand(1, 3, 1, 8)
    assert image_io.to_pixels(x)[0, :, 0].tolist() == [0, 0, 1, 1, 3, 255, 255, 128]
    assert image_io.to_pixels(torch.tensor([float("inf"), -float("inf")]).expand(3, 1, 2))[0, :, 1].tolist() == [255, 0]
    assert image_io.to_pixels(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == np.uint8


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 2, 16, 64]))
def test_pad_and_crop(height, width, multiple):
    x = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    padded = image_io.pad(x, multiple)
    assert padded.shape[-2] % multiple == 0 and padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple and padded.shape[-1] - width < multiple
    assert torch.equal(image_io.crop(padded, height, width), x)
    mirrored = np.pad(x.numpy()[0, 0], [(0, padded.shape[-2] - height), (0, padded.shape[-1] - width)], mode="reflect")
    assert np.array_equal(padded.numpy()[0, 0], mirrored)


def test_crop_refuses_to_grow():
    with pytest.raises(ImageError, match="cannot crop 4x4 to 4x5"):
        image_io.crop(torch.zeros(1, 3, 4, 4), 5, 4)


@pytest.mark.parametrize("suffix", ["", *(f".{s}" for s in FORMATS), ".jpeg", ".TIF"])
@pytest.mark.parametrize("size", [(40, 56), (1, 1)])
def test_save(tmp_path, suffix, size):
    path = tmp_path / f"out{suffix}"
    path.write_text("old content")
    image_io.save(image(*size), path)
    limit = 6 if suffix in (".jpg", ".jpeg", ".avif") else 0
    assert np.abs(image_io.load(path).pixels.astype(int) - image(*size)).max() <= limit
    assert os.listdir(tmp_path) == [path.name]


def test_save_refuses(tmp_path):
    for name in ("a.gif", "a.gic", "a.exe"):
        with pytest.raises(ImageError, match="wanted one of .png"):
            image_io.save(image(), tmp_path / name)
    with pytest.raises(ImageError, match="cannot write"):
        image_io.save(np.zeros((1, 20000, 3), np.uint8), tmp_path / "a.webp")  # WebP ends at 16383
    with pytest.raises(PriorCodecError, match="cannot write .*No such file"):
        image_io.save(image(), tmp_path / "none" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PriorCodecError, match="cannot write"):
        image_io.save(image(), tmp_path / "folder.png")
    assert os.listdir(tmp_path) == ["folder.png"]


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PriorCodecError, match="No space left"):
        image_io.save(image(), path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.png"]


def test_pipes_are_written_directly():
    image_io.save(image(), "/dev/null")
    assert not os.path.isfile("/dev/null")


def test_what_pillow_turned_is_not_turned_again():
    """Pillow keeps the file's orientation tag in what `transpose`, `crop` and `copy` give."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "JPEG", exif=exif)
    with Image.open(file) as image:
        assert image_io.from_any(image).pixels.shape == (40, 20, 3)
        upright = image.transpose(Image.Transpose.ROTATE_270)
    assert upright.size == (20, 40) and image_io.from_any(upright).pixels.shape == (40, 20, 3)


def test_the_size_of_an_array_is_checked_before_it_is_copied():
    large = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (70_000, 70_000, 3))
    for image in (large, large[..., 0], torch.from_numpy(np.zeros((3, 1, 1), np.uint8)).expand(3, 70_000, 70_000)):
        with pytest.raises(ImageError, match="70000x70000"):
            image_io.from_any(image)
