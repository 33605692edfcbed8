"""What is common to all formats: damage that is reported, colors by CICP, HEIC, warnings, and threads side by side."""

import io
import struct
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec.core.errors import ImageError, ImageWarning
from priorcodec.core.image import decoders
from priorcodec.core.image import io as image_io
from tests.core.image.makers import avif, halves, middles, png
from tests.core.image.test_io import FORMATS, TURNS, encoded, image

FLAT = halves()


def noise(size=256) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (size, size, 3), np.uint8)


def refused(source, **options) -> str:
    with pytest.raises(ImageError) as caught:
        image_io.load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_blocks": 4}])
def test_damage_inside_a_jpeg_is_reported(options):
    data = encoded(noise(), "JPEG", quality=90, **options)
    assert image_io.load(data).notes == ()
    changed = bytearray(data)
    changed[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    loaded = image_io.load(bytes(changed))
    assert loaded.damaged and loaded.notes[0].startswith("damaged: ") and "\n" not in loaded.notes[0]
    with pytest.warns(ImageWarning, match="the image: damaged"):
        image_io.from_any(bytes(changed))


def test_a_jpeg_that_ends_early_is_refused_or_reported():
    data = encoded(noise(), "JPEG", quality=90)
    for kept in (len(data) - 2, len(data) - 20, len(data) - 2000, len(data) // 2):
        try:
            assert image_io.load(data[:kept]).damaged
        except ImageError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_sound_jpegs_of_every_kind_are_silent(mode):
    source = Image.fromarray(image()).convert(mode)
    for data in (encoded(source, "JPEG"), encoded(source, "JPEG") + b"trailing bytes of a motion photo" * 50):
        assert not image_io.load(data).damaged


def test_a_damaged_file_is_named_in_the_warning(tmp_path):
    path = tmp_path / "a.png"
    data = bytearray(png(FLAT))
    at = data.index(b"IDAT")
    data[at + 4 + struct.unpack(">I", data[at - 4 : at])[0]] ^= 1
    path.write_bytes(data)
    with pytest.warns(ImageWarning, match=f"{path}: damaged: the IDAT chunk"):
        image_io.from_any(path)


@pytest.mark.parametrize(
    "codes, wanted",
    [((12, 13), ([218, 0, 54], [0, 183, 78])), ((1, 13), ([200, 40, 60], [60, 180, 90])), ((2, 2), None)],
)
def test_avif_colors_by_cicp(codes, wanted):
    loaded = image_io.load(avif(FLAT, *codes))
    for got, value in zip(middles(loaded.pixels), wanted or ([200, 40, 60], [60, 180, 90]), strict=True):
        assert got == pytest.approx(value, abs=2)
    assert loaded.notes == (("colors converted from Display P3 to sRGB",) if codes == (12, 13) else ())


def test_avif_linear_is_converted_and_hdr_refused():
    loaded = image_io.load(avif(FLAT, 1, 8))
    assert middles(loaded.pixels)[0] == pytest.approx([229, 110, 133], abs=3) and "linear" in loaded.notes[0]
    assert "(PQ, CICP 9/16) is not supported" in refused(avif(FLAT, 9, 16))
    assert "(HLG, CICP 9/18) is not supported" in refused(avif(FLAT, 9, 18))
    bt2020 = image_io.load(avif(FLAT, 9, 1))
    assert "BT.2020" in bt2020.notes[0]


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["JPEG", "AVIF", "WEBP"])
def test_mirrored_orientations(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 95, "subsampling": "4:4:4"}
    pixels = image_io.load(encoded(image(), format, exif=exif, **options)).pixels
    assert pixels.shape == TURNS[orientation](image()).shape
    assert np.abs(pixels.astype(int) - TURNS[orientation](image())).max() <= 6


def test_heic_with_the_plugin():
    heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(Image.fromarray(image())).save(out, quality=95, chroma=444, exif=exif.tobytes())
    loaded = image_io.load(out.getvalue())
    assert np.abs(loaded.pixels.astype(int) - TURNS[6](image())).max() <= 12
    assert "more than 100 pixels" in refused(out.getvalue(), max_pixels=100)
    assert "damaged" in refused(out.getvalue()[:300])


def test_heic_without_the_plugin(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install pillow-heif" in refused(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100))


def test_a_tensor_in_zero_to_one_is_suspicious():
    ramp = torch.linspace(0, 1, 64).expand(3, 4, 64)
    with pytest.warns(ImageWarning, match="from 0 to 1, taken as .-1, 1.: if black is 0, give 2") as caught:
        image_io.from_any(ramp)
    assert [warning.filename for warning in caught] == [__file__]  # the line that called, not ours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (ramp * 2 - 1, torch.zeros(3, 4, 4), torch.ones(3, 4, 4), ramp.mul(255).byte()):
            image_io.from_any(fine)


def test_arrays_of_every_shape():
    gray = FLAT[..., 0]
    for array in (gray, gray[..., None], np.dstack([gray, np.full_like(gray, 255)])):
        assert np.array_equal(image_io.from_any(array).pixels, np.repeat(gray[..., None], 3, 2))
    for data in (bytearray(png(FLAT)), memoryview(png(FLAT))):
        assert np.array_equal(image_io.from_any(data).pixels, FLAT)


class OneWay(io.RawIOBase):
    """A file that cannot be rewound, as a member of a stream."""

    def __init__(self, data):
        self.file = io.BytesIO(data)

    def readable(self):
        return True

    def seekable(self):
        return False

    def readinto(self, buffer):
        return self.file.readinto(buffer)

    def tell(self):
        raise OSError("not seekable")


def test_streams_and_display_names():
    assert np.array_equal(image_io.load(io.BufferedReader(OneWay(png(FLAT)))).pixels, FLAT)
    assert refused(b"junk", name="shard.tar/0001.png").startswith("shard.tar/0001.png: not an image")
    named = io.BytesIO(b"")
    named.name = "line\nbreak\udcff.png"
    assert refused(named).startswith("line?break?.png: the file is empty")
    assert "binary mode" in refused(io.StringIO("text"))
    assert "NUL" in refused("a\0b.png")


def files() -> list[bytes]:
    made = [encoded(image(), "JPEG" if s == "jpg" else s.upper(), **options) for s, options in FORMATS.items()]
    return [*made, png(image().astype(np.uint16) * 257, depth=16), encoded(image(), "TIFF", compression="tiff_lzw")]


def test_nothing_of_the_process_is_touched(monkeypatch):
    """No filter of warnings, no limit of Pillow: seen by a class that records what is set while images are read."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # would refuse everything
    before = list(warnings.filters)

    def forbidden(*_, **__):
        raise AssertionError("the process's warnings filter was changed")

    with monkeypatch.context() as patched:
        for name in ("catch_warnings", "simplefilter", "filterwarnings", "resetwarnings"):
            patched.setattr(warnings, name, forbidden)
        seen = set()
        original = decoders._decoder

        def watching(data):
            seen.add(Image.MAX_IMAGE_PIXELS)
            return original(data)

        patched.setattr(decoders, "_decoder", watching)
        for data in files():
            assert image_io.load(data).pixels.shape == (40, 56, 3)
            assert Image.MAX_IMAGE_PIXELS == 1
    assert list(warnings.filters) == before and seen == {1}


def test_eight_threads_decode_at_once(monkeypatch):
    """All eight are inside a decoder at the same time: with a lock around it the barrier would never open."""
    barrier = threading.Barrier(8, timeout=60)
    original = decoders._decoder

    def together(data):
        barrier.wait()
        return original(data)

    monkeypatch.setattr(decoders, "_decoder", together)
    data = files()[1:] + files()[:2]
    results: list[np.ndarray | Exception] = [RuntimeError("nothing came")] * 8

    def read(i):
        try:
            results[i] = image_io.load(data[i]).pixels
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert isinstance(result, np.ndarray), result
        assert np.abs(result.astype(int) - image()).max() <= 6


def test_an_endless_file_is_refused(monkeypatch):
    monkeypatch.setattr(image_io, "MAX_FILE", 2**25)
    assert "larger than" in refused("/dev/zero")
