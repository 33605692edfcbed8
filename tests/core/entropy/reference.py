"""A second reader, written from docs/format.md alone: Python integers for the coder, int64 for the networks, no constriction.

python -m tests.core.entropy.reference FILE.gic...    prints the digest of each file's symbols
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path

import numpy as np

ENCODER = Path(__file__).parents[3] / "priorcodec" / "weights" / "encoder.safetensors"
DTYPES = {"I16": np.int16, "I32": np.int32, "U8": np.uint8}


class InvalidFile(Exception):
    pass


class Encoder:
    """Section 3."""

    def __init__(self, path=ENCODER):
        data = path.read_bytes()
        self.id = int.from_bytes(hashlib.sha256(data).digest()[:4], "little")
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        config = json.loads(header.pop("__metadata__")["config"])
        self.m, self.m_h, self.n, self.levels, self.groups = (
            config[key] for key in ("m", "m_h", "n", "levels", "groups")
        )
        self.t = {}
        for name, entry in header.items():
            if name.startswith("entropy."):
                begin, end = (start + offset for offset in entry["data_offsets"])
                values = np.frombuffer(data[begin:end], np.dtype(DTYPES[entry["dtype"]]).newbyteorder("<"))
                self.t[name.removeprefix("entropy.")] = values.astype(np.int64).reshape(entry["shape"])
        self.y, self.z = Tables(self.t, "y", config["certain"]), Tables(self.t, "z", 0)


class Tables:
    """One set of frequency tables; certain: how many of them mean zero."""

    def __init__(self, t, kind, certain):
        lengths = t[f"{kind}_cdf_length"]
        self.cdf = [row[:length].tolist() for row, length in zip(t[f"{kind}_cdf"], lengths, strict=True)]
        self.offset, self.certain = t[f"{kind}_cdf_offset"].tolist(), certain


def unpack(data):
    """Section 1 -> (encoder id, quality, H, W, string)."""
    at = 6

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) - 4:
                raise InvalidFile("cut short")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                if value >= 2**32 or (shift > 7 and byte == 0):
                    raise InvalidFile("varint")
                return value

    if len(data) < 10 or data[:3] != b"GIC" or data[3] & 0xEF != 2:
        raise InvalidFile("no file of version 2")
    identity = int.from_bytes(data[-4:], "little") ^ zlib.crc32(data[:-4])
    if identity & 0xFF != data[4]:
        raise InvalidFile("damaged")
    height, width = varint(), varint()
    if not (1 <= height <= 65535 and 1 <= width <= 65535 and data[5] <= 176):
        raise InvalidFile("out of range")
    if not data[3] & 0x10:
        return identity, data[5], height, width, data[at:-4]
    string, last = None, -1
    while at < len(data) or last < 0:
        kind, at = data[at], at + 1
        length = varint()
        content, at = data[at : at + length], at + length + 4
        if at > len(data) or int.from_bytes(data[at - 4 : at], "little") ^ zlib.crc32(data[: at - 4]) != identity:
            raise InvalidFile("segment cut short or damaged")
        if kind >= 128 or kind <= last:
            raise InvalidFile("segment type")
        last, string = kind, content if kind == 32 else string
    return identity, data[5], height, width, string


class Coder:
    """Section 6."""

    def __init__(self, string):
        if string[-1:] == b"\0":
            raise InvalidFile("zero byte at the end")
        if string:
            string = b"\0" + string + bytes(-(len(string) + 1) % 4)
        self.words = [int.from_bytes(string[i : i + 4], "little") for i in range(0, len(string), 4)]
        self.state = 0
        self.refill()
        self.refill()

    def refill(self):
        if self.words:
            self.state = (self.state << 32) + self.words.pop()

    def entry(self, cdf):
        """cdf: cumulative frequencies that end with 65536."""
        quantile = self.state % 2**24
        low, high = 0, len(cdf) - 1  # cdf[low] * 256 <= quantile < cdf[high] * 256
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cdf[middle] * 256 <= quantile else (low, middle)
        self.advance(quantile, cdf[low] * 256, (cdf[high] - cdf[low]) * 256)
        return low

    def raw(self, bits):
        quantile, frequency = self.state % 2**24, 2 ** (24 - bits)
        value = quantile // frequency
        self.advance(quantile, value * frequency, frequency)
        return value

    def advance(self, quantile, cumulative, frequency):
        self.state = (self.state >> 24) * frequency + quantile - cumulative
        assert self.state < 2**64
        if self.state < 2**32:
            self.refill()


def read_pass(tables, coder, index):
    """Section 7; index: flat list -> flat list of symbols."""
    symbols, escapes = [0] * len(index), []
    places = {}
    for place, table in enumerate(index):
        if table >= tables.certain:
            places.setdefault(table, []).append(place)
    for table in sorted(places):
        cdf = tables.cdf[table]
        for place in places[table]:
            entry = coder.entry(cdf)
            if entry == len(cdf) - 2:
                escapes.append((place, table))
            symbols[place] = entry + tables.offset[table]
    lengths = [coder.raw(5) for _ in escapes]
    for (place, table), length in zip(escapes, lengths, strict=True):
        if length > 16:
            raise InvalidFile("length")
        d = 2**length + (coder.raw(length) if length else 0) - 1
        offset, last = tables.offset[table], len(tables.cdf[table]) - 2
        symbols[place] = offset - (d + 1) // 2 if d % 2 else offset + last + d // 2
        if abs(symbols[place]) > 32767:
            raise InvalidFile("symbol")
    return symbols


def layer(encoder, name, a, relu):
    """Section 4. a: int64 (c, h, w)."""
    weight, bias = encoder.t[f"{name}.weight"], encoder.t[f"{name}.bias"]
    o, i, k, _ = weight.shape
    _, h, w = a.shape
    padded = np.pad(a, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    s = np.zeros((o, h * w), np.int64) + bias[:, None]
    for dy in range(k):
        for dx in range(k):
            s += np.einsum("oi,ip->op", weight[:, :, dy, dx], padded[:, dy : dy + h, dx : dx + w].reshape(i, -1))
    return np.clip((s + 512) >> 10, 0 if relu else -32767, 32767).reshape(o, h, w)


def shuffle(a):
    c, h, w = a.shape
    out = np.zeros((c // 4, 2 * h, 2 * w), np.int64)
    for u in (0, 1):
        for v in (0, 1):
            out[:, u::2, v::2] = a[2 * u + v :: 4]
    return out


def decode(encoder, data):
    """Sections 1 to 9 -> (v, digest): v int64 (m, h, w), 256 times y_hat_q."""
    identity, q, height, width, string = unpack(data)
    if string is None:
        raise InvalidFile("no latent")
    if identity != encoder.id:
        raise InvalidFile("another encoder")
    h, w = 4 * -(-height // 64), 4 * -(-width // 64)
    coder, digest = Coder(string), hashlib.sha256()
    index = np.broadcast_to(encoder.t["z_index"][q][:, None, None], (encoder.m_h, h // 4, w // 4))
    symbols = read_pass(encoder.z, coder, index.ravel().tolist())
    digest.update(np.array(symbols, "<i4").tobytes())
    sz = np.array(symbols).reshape(index.shape)
    z_hat = np.clip(256 * sz + encoder.t["z_mean"][q][:, None, None], -32767, 32767)
    a = layer(encoder, "h_s.0", z_hat, True)
    a = np.clip(a + encoder.t["quality_bias"][q][:, None, None], 0, 32767)
    a = shuffle(layer(encoder, "h_s.1", a, True))
    a = shuffle(layer(encoder, "h_s.2", a, True))
    phi = layer(encoder, "h_s.3", a, True)
    v, even = np.zeros((encoder.m, h, w), np.int64), np.indices((h, w)).sum(0) % 2 == 0
    start = 0
    for g, count in enumerate(encoder.groups):
        for mask, name, known in ((even, f"anchor.{g}", start), (~even, f"other.{g}", start + count)):
            a = phi
            if known:
                seen = np.clip(v[:known], -32767, 32767)
                a = np.concatenate([phi, layer(encoder, f"{name}.context", seen, False)])
            here = a[:, mask][:, None]
            out = layer(encoder, f"{name}.last", layer(encoder, f"{name}.first", here, True), False)[:, 0]
            mean, index = out[:count], np.clip(((8 * out[count:] + 128) >> 8) + 16, 0, 63)
            symbols = read_pass(encoder.y, coder, index.ravel().tolist())
            digest.update(np.array(symbols, "<i4").tobytes())
            v[start : start + count, mask] = 256 * np.array(symbols).reshape(index.shape) + mean
        start += count
    if coder.state or coder.words:
        raise InvalidFile("more than its symbols")
    return v, digest.hexdigest()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, decode(Encoder(), Path(name).read_bytes())[1])
