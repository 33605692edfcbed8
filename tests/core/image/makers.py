"""Image files of kinds that Pillow cannot write, made byte by byte: PNG chunks, TIFF of any depth and layout, AVIF's CICP."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

LEFT, RIGHT = (200, 40, 60), (60, 180, 90)


def halves(left=LEFT, right=RIGHT, size=(64, 64)) -> np.ndarray:
    """Two flat halves, uint8 (h, w, c)."""
    a = np.empty((*size, len(left)), np.uint8)
    a[:, : size[1] // 2], a[:, size[1] // 2 :] = left, right
    return a


def middles(pixels: np.ndarray) -> tuple[list[int], list[int]]:
    """The pixels in the middle of both halves."""
    h, w = pixels.shape[:2]
    return pixels[h // 2, w // 4].tolist(), pixels[h // 2, 3 * w // 4].tolist()


def chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) if crc is None else crc)
    )


def png(
    samples: np.ndarray,
    *before: bytes,
    depth=8,
    kind=2,
    data: bytes | None = None,
    after=b"",
    header_crc=None,
    level=-1,
):
    """A PNG of samples (h, w, c) or (h, w), with chunks before its image data; `data` takes the place of that chunk."""
    h, w = samples.shape[:2]
    if depth == 16:
        rows = samples.reshape(h, -1).astype(">u2").view(np.uint8).reshape(h, -1)
    elif depth == 8:
        rows = samples.reshape(h, -1).astype(np.uint8)
    else:
        bits = (samples.reshape(h, -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(h, -1).astype(np.uint8), axis=1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), level)
    head = struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, 0)
    body = chunk(b"IDAT", packed) if data is None else data
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head, header_crc) + b"".join(before) + body + after + chunk(b"IEND", b"")
    )


def literal_lzw(data: bytes) -> bytes:
    """LZW as TIFF wants it, of 9-bit literals only: the table is cleared before codes grow."""
    codes = []
    for i in range(0, len(data), 250):
        codes += [256, *data[i : i + 250]]
    codes.append(257)
    bits = (np.array(codes)[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def literal_packbits(data: bytes) -> bytes:
    return b"".join(bytes([len(data[i : i + 128]) - 1]) + data[i : i + 128] for i in range(0, len(data), 128))


CODERS = {1: bytes, 5: literal_lzw, 8: zlib.compress, 32773: literal_packbits}  # by TIFF compression


def tiff_page(
    samples: np.ndarray, *, bits=8, order="<", planar=1, compression=1, predictor=1, rows=5, tile=None, photometric=2,
    extra=(), tags=None,
) -> tuple[dict[int, tuple[str, list]], list[bytes]]:  # fmt: skip
    """-> the tags of a page without its offsets, and its strips or tiles."""
    h, w, n = samples.shape
    parts: list[bytes] = []
    planes = [samples] if planar == 1 else [samples[..., i : i + 1] for i in range(n)]
    for plane in planes:
        if tile:
            blocks = []
            for top in range(0, h, tile):
                for left in range(0, w, tile):
                    block = np.zeros((tile, tile, plane.shape[2]), plane.dtype)
                    cut = plane[top : top + tile, left : left + tile]
                    block[: cut.shape[0], : cut.shape[1]] = cut
                    blocks.append(block)
        else:
            blocks = [plane[top : top + rows] for top in range(0, h, rows)]
        for block in blocks:
            if predictor == 2:
                block = np.concatenate([block[:, :1], np.diff(block, axis=1)], 1)  # wraps
            if bits == 16:
                raw = block.astype(order + "u2").tobytes()
            elif bits == 8:
                raw = block.astype(np.uint8).tobytes()
            else:
                row = (block.reshape(len(block), -1, 1).astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1
                raw = np.packbits(row.reshape(len(block), -1).astype(np.uint8), axis=1).tobytes()
            parts.append(CODERS[compression](raw))
    entries = {
        256: ("I", [w]), 257: ("I", [h]), 258: ("H", [bits] * n), 259: ("H", [compression]), 262: ("H", [photometric]),
        277: ("H", [n]), 284: ("H", [planar]), 317: ("H", [predictor]),
    }  # fmt: skip
    if tile:
        entries |= {322: ("I", [tile]), 323: ("I", [tile])}
    else:
        entries[278] = ("I", [rows])
    if extra:
        entries[338] = ("H", list(extra))
    return entries | (tags or {}), parts


def tiff(*pages, order="<", big=False) -> bytes:
    """A TIFF of what `tiff_page` returned."""
    codes = {"B": 1, "H": 3, "I": 4}
    word, entry = ("Q", 20) if big else ("I", 12)
    mark = b"II" if order == "<" else b"MM"
    out = bytearray(mark + struct.pack(order + "H", 43 if big else 42))
    out += struct.pack(order + ("HHQ" if big else "I"), *((8, 0, 0) if big else (0,)))
    link = 8 if big else 4
    for entries, parts in pages:
        offsets = []
        for part in parts:
            offsets.append(len(out))
            out += part + b"\0" * (len(part) % 2)
        tiled = 322 in entries
        entries = {
            **entries,
            324 if tiled else 273: ("I", offsets),
            325 if tiled else 279: ("I", [len(part) for part in parts]),
        }
        fields = []
        for tag, (code, values) in sorted(entries.items()):
            raw = struct.pack(f"{order}{len(values)}{code}", *values)
            room = 8 if big else 4
            if len(raw) > room:
                at = len(out)
                out += raw + b"\0" * (len(raw) % 2)
                raw = struct.pack(order + word, at)
            fields.append(struct.pack(f"{order}HH{word}", tag, codes[code], len(values)) + raw.ljust(room, b"\0"))
            assert len(fields[-1]) == entry
        struct.pack_into(order + word, out, link, len(out))
        out += struct.pack(order + ("Q" if big else "H"), len(fields)) + b"".join(fields)
        link = len(out)
        out += struct.pack(order + word, 0)
    return bytes(out)


def avif(pixels: np.ndarray, primaries: int, transfer: int, **options) -> bytes:
    """An AVIF that states its colors by CICP only."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "AVIF", quality=100, subsampling="4:4:4", **options)
    data = bytearray(out.getvalue())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)
