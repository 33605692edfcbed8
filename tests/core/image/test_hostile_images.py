"""Files whose counts and sizes ask for far more memory or time than they are worth: read rightly, or refused in one line."""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from priorcodec.core.image import io as image_io
from tests.core.image.makers import CODERS, chunk, png
from tests.core.image.test_io import ADOBE, image, profile
from tests.core.image.test_png import iccp

PLAIN = image(64, 64)
GRAY = PLAIN[..., :1]
BYTE, LONG, SIGNED = 1, 4, 9
MEGABYTE = 10**6


def directory(*entries) -> bytes:
    """Of entries (tag, type, number of values, value or its offset)."""
    return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)


def tiff(body, *entries) -> bytes:
    """The body starts at byte 8, the directory behind it."""
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory(*sorted(entries))


def page(width, height, *, bits=8, compression=1, rows=None, samples=1) -> list:
    """The entries of a gray page, without strips or tiles."""
    numbers = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 277: samples, 278: rows or height}
    return [(tag, LONG, 1, value) for tag, value in numbers.items()]


def repeated(number, times, body) -> tuple[bytes, int]:
    """-> the body with a list of one number behind it, and where the list starts."""
    return body + struct.pack("<I", number) * times, 8 + len(body)


def strips(count, body, *entries) -> bytes:
    """Every strip is the whole body."""
    size = len(body)
    body, offsets = repeated(8, count, body)
    body, sizes = repeated(size, count, body)
    return tiff(body, *entries, (273, LONG, count, offsets), (279, LONG, count, sizes))


def encoded(format, pixels=PLAIN, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(out, format, **options)
    return out.getvalue()


def exif(tags, size) -> bytes:
    """Each of the tags has all bytes of the block."""
    return (b"II*\0\x08\0\0\0" + directory(*((1000 + i, BYTE, size, 0) for i in range(tags)))).ljust(size, b"\1")


def overlapping_directories(entries=60000, count=10000) -> bytes:
    """The last bytes of an entry are the size of the next directory, and its first ones a link."""
    data = bytearray(8 + 2 + 12 * entries + 4)
    data[:8] = b"II*\0\x08\0\0\0"
    for i in range(count):
        struct.pack_into("<H", data, 8 + 12 * i, entries - count)
        struct.pack_into("<I", data, 10 + 12 * (i + entries - count), 20 + 12 * i)
    return bytes(data)


def tile(side, raw, *entries) -> bytes:
    return tiff(raw, *entries, (322, LONG, 1, side), (323, LONG, 1, side), (324, LONG, 1, 8), (325, LONG, 1, len(raw)))


def deep(icc) -> bytes:
    return png(PLAIN.astype(np.uint16) * 257, iccp(icc), depth=16)


def overlapping_profile(tags=95, size=2**24 - 8) -> bytes:
    """A profile with tags that share all of its bytes."""
    icc = profile(**ADOBE)
    count = icc[131]
    more = tags - count
    table = struct.iter_unpack(">4sII", icc[132 : 132 + 12 * count])
    table = [(name, at + 12 * more, length) for name, at, length in table]
    table += [(b"x%03d" % i, 132, size - 132) for i in range(more)]
    head = struct.pack(">I", size) + icc[4:128] + struct.pack(">I", tags)
    whole = head + b"".join(struct.pack(">4sII", *entry) for entry in table) + icc[132 + 12 * count :]
    return whole.ljust(size, b"\0")


def named_profile(name) -> bytes:
    icc = profile(**ADOBE)
    text = name.encode("utf-16-be")
    entry = struct.pack(">4sII", b"desc", len(icc), 28 + len(text))
    icc += b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    return struct.pack(">I", len(icc)) + icc[4:132] + entry + icc[144:]


def noise(side=4000) -> np.ndarray:
    """With a black last row: the reader has to find out whether it is there."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    pixels[-1] = 0
    return pixels


def many_scans(side=2000, times=5000) -> bytes:
    data = encoded("JPEG", np.full((side, side), 128, np.uint8), progressive=True)[:-2]
    return data + data[data.rindex(b"\xff\xc4") :] * times + b"\xff\xd9"


def enlarged(side) -> bytes:
    """A progressive JPEG that says it is larger than its data."""
    data = bytearray(encoded("JPEG", GRAY, progressive=True))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def hostile() -> dict[str, tuple[bytes, np.ndarray | str]]:
    """Name -> a file, and its pixels or what the error says."""
    block = exif(tags=300, size=MEGABYTE)
    renamed = named_profile("a " * 2 * MEGABYTE)
    same = {kind: image_io.load(encoded(kind)).pixels for kind in ("JPEG", "WEBP", "AVIF")}
    files = {
        "EXIF tags in JPEG": (encoded("JPEG", exif=b"Exif\0\0" + exif(tags=1500, size=65000)), same["JPEG"]),
        "EXIF tags in PNG": (png(PLAIN, chunk(b"eXIf", block)), PLAIN),
        "EXIF tags in WebP": (encoded("WEBP", exif=block), same["WEBP"]),
        "EXIF tags in AVIF": (encoded("AVIF", exif=block), same["AVIF"]),
        "ICC tags": (deep(overlapping_profile()), image_io.load(deep(profile(**ADOBE))).pixels),
        "ICC name": (png(PLAIN, iccp(renamed)), image_io.load(png(PLAIN, iccp(profile(**ADOBE)))).pixels),
        "PNG whose last row is black": (png(noise(), level=0), noise()),
        "PNG chunks that fail their checksums": (
            png(PLAIN, *[chunk(b"gAMA", b"", 1)] * 30000, *[chunk(b"PLTE", b"", 1)] * 30000), PLAIN,
        ),
        "PNG chunks without data": (png(PLAIN, *[chunk(b"IDAT", b"")] * 1_500_000), PLAIN),
        "JPEG scans": (many_scans(), "a JPEG of 5006 scans, wanted at most 100"),
        "TIFF directories": (overlapping_directories(), "its directories overlap"),
    }  # fmt: skip
    strip, filler = (273, LONG, 1, 8), bytes(MEGABYTE)
    one = [strip, (279, LONG, 1, 64 * 64)]
    pixels = GRAY.tobytes() + filler
    tags = [(40000 + i, BYTE, MEGABYTE, 8) for i in range(300)]
    black = np.zeros((64, 64, 1), np.uint8)
    files["TIFF tags"] = tiff(pixels, *page(64, 64), *one, *tags), GRAY
    files["TIFF tags that Pillow reads"] = tiff(filler, *page(64, 64, bits=1, compression=3), *one, *tags), black
    row = GRAY[:1].tobytes()
    for compression, coder in CODERS.items():
        file = strips(3000, coder(row).ljust(MEGABYTE, b"\0"), *page(64, 3000, compression=compression, rows=1))
        files[f"TIFF strips, compression {compression}"] = file, np.repeat(GRAY[:1], 3000, 0)
    body, offsets = repeated(8, 3000, row + filler)
    body, sizes = repeated(2**32 - 100, 3000, body)
    files["TIFF strips of negative size"] = (
        tiff(body, *page(64, 3000, rows=1), (273, LONG, 3000, offsets), (279, SIGNED, 3000, sizes)),
        "the file ends before the image",
    )
    jpeg, large = encoded("JPEG", GRAY), enlarged(16000)
    both = jpeg + large
    files["TIFF strip that no row needs"] = (
        tiff(
            both + struct.pack("<4I", 8, 8 + len(jpeg), len(jpeg), len(large)), *page(64, 64, compression=7),
            (273, LONG, 2, 8 + len(both)), (279, LONG, 2, 16 + len(both)),
        ),
        image_io.load(jpeg).pixels,
    )  # fmt: skip
    files["TIFF strips of JPEG"] = (
        strips(8000, encoded("JPEG", GRAY[:8]).ljust(5 * MEGABYTE, b"\0"), *page(64, 64000, compression=7, rows=8)),
        "its strips or tiles overlap",
    )
    files["TIFF tile of JPEG"] = tile(16000, large, *page(64, 64, compression=7)), "parts of 16000x16000"
    many = {"samples": 16, "compression": 8}
    files["TIFF tile"] = (
        tile(4096, zlib.compress(bytes(2**28), 1), *page(1, 1, bits=8, **many)), "parts of 4096x4096 for an image of 1x1"
    )  # fmt: skip
    files["TIFF tiles of a pixel"] = (
        tiff(
            bytes(2048**2), *page(2048, 2048), (322, LONG, 1, 1), (323, LONG, 1, 1), (324, BYTE, 2048**2, 8),
            (325, BYTE, 2048**2, 8),
        ),
        "parts of 1x1 for an image of 2048x2048",
    )  # fmt: skip
    files["TIFF samples"] = (
        strips(64, zlib.compress(bytes(2**25), 1), *page(8192, 8192, bits=16, rows=128, **many)),
        "with 16 samples a pixel, more than 268435456 samples",
    )
    row = zlib.compress(bytes(2**19 * 30), 1)
    files["TIFF samples of 15 bits"] = (
        tiff(row, *page(2**19, 1, bits=15, **many), (273, LONG, 1, 8), (279, LONG, 1, len(row))),
        np.zeros((1, 2**19, 1), np.uint8),
    )
    return files


READ = """
import json, resource, sys, time, zlib
from pathlib import Path
from priorcodec.core.errors import ImageError
from priorcodec.core.image import io as image_io
plain, *files = map(Path, sys.argv[1:])
for path in plain.iterdir():
    image_io.load(path)  # imports and tables
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))  # what hangs is ended, and fails
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for path in files:
    before, started = peak(), time.process_time()
    try:
        loaded = image_io.load(path)
        read = [*loaded.pixels.shape[:2], zlib.crc32(loaded.pixels), len(" ".join(loaded.notes)) < 1000]
    except ImageError as error:
        read = str(error)
    print(json.dumps([read, time.process_time() - started, peak() - before]), flush=True)
"""


@pytest.mark.filterwarnings("ignore:Tag data larger than file")  # Pillow's, where it writes them
def test_image_bombs_take_neither_time_nor_memory(tmp_path, record_property):
    files, paths, plain = hostile(), [], tmp_path / "plain"
    plain.mkdir()
    for format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF"):
        (plain / format).write_bytes(encoded(format))
    for i, (data, _) in enumerate(files.values()):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(data)
    run = subprocess.run([sys.executable, "-c", READ, plain, *paths], capture_output=True, text=True)
    found = dict(zip(files, map(json.loads, run.stdout.splitlines()), strict=False))
    for name, (read, seconds, grown_mib) in found.items():
        wanted = files[name][1]
        if isinstance(wanted, str):
            assert wanted in read and "\n" not in read, (name, read)
        else:
            pixels = np.ascontiguousarray(np.broadcast_to(wanted, (*wanted.shape[:2], 3)))
            assert read == [*pixels.shape[:2], zlib.crc32(pixels), True], (name, read)
        assert seconds < 2 and grown_mib < 300, (name, seconds, grown_mib)
    assert len(found) == len(files), f"ended at {list(files)[len(found)]}: {run.stderr}"
    record_property("tries", len(files))
