"""Exact entropy coding: the frozen integer prior and CompressAI's rANS. The same bytes give the same symbols everywhere.

    hyper bytes --rANS--> z symbols --integer h_s--> phi --integer nets--> table indices, means --rANS <-- latent bytes--> symbols
Only integer tables out of the weight file and exact float64 sums of integers (`integer.exact_conv`) lie on this path.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from priorcodec.core.entropy.entropy_model import INDEX_BIAS, INDEX_GAIN, SCALES, anchors, scale_of
from priorcodec.core.entropy.integer import LIMIT, ONE, exact_conv
from priorcodec.core.errors import StreamError, WeightsError

PRECISION = 16  # bits of a cumulative frequency
LARGEST_SYMBOL = (1 << 15) - 1
STRIP = (
    1 << 13
)  # positions of the latent grid whose parameters are worked out at a time: 108 MiB of columns for 192 channels
GROUP = 1 << 22  # values copied at a time: 32 MiB in float64
CHUNK = 1 << 20  # symbols handed to the coder at a time, as Python numbers
TAIL = 5.0  # tables reach this many standard deviations; symbols beyond are escaped


@functools.cache
def extension(name: str) -> ModuleType:
    """One compiled module of CompressAI (`ans`, `_CXX`): importing the whole package costs five seconds nothing here needs."""
    package = importlib.util.find_spec("compressai")
    folders = (package.submodule_search_locations if package else None) or []
    for path in (Path(folder) / f"{name}{end}" for folder in folders for end in importlib.machinery.EXTENSION_SUFFIXES):
        if path.exists():
            loader = importlib.machinery.ExtensionFileLoader(f"compressai.{name}", str(path))
            spec = importlib.util.spec_from_loader(loader.name, loader)
            module = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]
            loader.exec_module(module)
            return module
    raise WeightsError(f"compressai's compiled module {name!r} is missing: pip install --force-reinstall compressai")


def gaussian_tables() -> dict[str, Tensor]:
    """Integer cumulative frequencies of the `SCALES` zero-mean Gaussians, int32; computed once, when weights are frozen."""
    rows, lengths, offsets = [], [], []
    for scale in scale_of(torch.arange(SCALES).double()).tolist():
        reach = max(2, round(TAIL * scale))
        k = torch.arange(-reach, reach + 1).double()
        pmf = torch.special.ndtr((k + 0.5) / scale) - torch.special.ndtr((k - 0.5) / scale)
        tail = max(1.0 - pmf.sum().item(), 1e-9)
        rows.append(extension("_CXX").pmf_to_quantized_cdf([*pmf.tolist(), tail], PRECISION))
        lengths.append(len(rows[-1]))
        offsets.append(-reach)
    cdf = torch.zeros(SCALES, max(lengths), dtype=torch.int32)
    for i, row in enumerate(rows):
        cdf[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
    as_int = functools.partial(torch.tensor, dtype=torch.int32)
    return {"cdf": cdf, "cdf_length": as_int(lengths), "cdf_offset": as_int(offsets)}


def check_tables(tables: dict[str, Tensor]) -> None:
    """The compiled coder trusts its tables: wrong ones would make it read elsewhere. Raises ValueError."""
    cdf, lengths = tables["cdf"].long(), tables["cdf_length"].long()
    if cdf.ndim != 2 or not bool(((lengths >= 3) & (lengths <= cdf.shape[1])).all()):
        raise ValueError("cdf_length is out of range")
    for row, length in zip(cdf, lengths.tolist(), strict=True):
        used = row[:length]
        if used[0] != 0 or used[-1] != 1 << PRECISION or not bool((used.diff() > 0).all()):
            raise ValueError(f"cdf does not rise from 0 to {1 << PRECISION}")
    if not bool((tables["cdf_offset"].long().abs() <= LARGEST_SYMBOL).all()):
        raise ValueError("cdf_offset is out of range")
    if not bool(((tables["z_index"].long() >= 0) & (tables["z_index"].long() < SCALES)).all()):
        raise ValueError("z_index names a table that does not exist")
    if any(bool((tables[key].long().abs() > LIMIT).any()) for key in tables if key.endswith(".weight")):
        raise ValueError("a weight is out of the range in which sums are exact")


@dataclass(frozen=True, kw_only=True)
class Coded:
    """One coded image. hyper, latent: the two strings; y_hat_q: (m, h, w) float32, decoded values in quantization steps;
    hyper_bits, latent_bits: what the tables say the strings should cost; symbols_sha256: of all symbols, as int32."""

    hyper: bytes
    latent: bytes
    y_hat_q: Tensor
    hyper_bits: float
    latent_bits: float
    symbols_sha256: str


class ExactPrior:
    """The frozen entropy model.

    Args:
        tables: what `Prior.tables` and `gaussian_tables` made (integers only); device: where the integer nets run.
    """

    def __init__(self, tables: dict[str, Tensor], device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.tables = {key: value.to(self.device) for key, value in tables.items()}
        self.m_h = len(self.tables["h_s.0.weight"][0])
        self.m = len(self.tables["context.weight"][0])
        self.lengths: list[int] = tables["cdf_length"].tolist()
        self.offsets: list[int] = tables["cdf_offset"].tolist()
        self.cdfs: list[list[int]] = tables["cdf"].tolist()
        self.bits = _bit_table(tables["cdf"], tables["cdf_length"])
        self.least = _least_bits(self.bits, self.lengths)

    def encode(self, y_q: Tensor, z: Tensor, quality: int) -> Coded:
        """y_q (m, h, w) and z (m_h, h/4, w/4) in quantization steps, quality as in the file -> both strings."""
        z_mean, z_index = self._hyper_parameters(quality, z.shape[-2:])
        z_symbols = _round(z.to(self.device).double() - z_mean / ONE).int()
        phi = self._features(_fixed(z_symbols * ONE + z_mean), quality)
        coder, digest = _Encoder(self), _Digest()
        coder.add(z_symbols, z_index)
        digest.add(z_symbols)
        hyper, hyper_bits, latent = coder.finish(), coder.bits, _Encoder(self)
        values = torch.zeros(y_q.shape, dtype=torch.float32, device=self.device)
        for mask in self._passes(y_q.shape[-2:]):
            mean, index = self._parameters(phi, values, mask, first=bool(mask[0, 0]))
            pairs = zip(_groups(y_q.to(self.device), mask), _groups(mean, mask), strict=True)
            symbols = torch.cat([_round(y.double()[:, mask] - m.double() / ONE).int() for y, m in pairs])
            latent.add(symbols, index)
            digest.add(symbols)
            _put(values, mask, symbols, mean)
        return Coded(
            hyper=hyper,
            latent=latent.finish(),
            y_hat_q=values.div_(ONE),
            hyper_bits=hyper_bits,
            latent_bits=latent.bits,
            symbols_sha256=digest.hex(),
        )

    def decode(self, hyper: bytes, latent: bytes, quality: int, h: int, w: int) -> tuple[Tensor, str]:
        """Both strings and the size of the latent grid (multiples of 4) -> y_hat_q (m, h, w) and the symbols' SHA-256.

        Raises:
            StreamError: the strings hold impossible symbols, or are too short for an image of that size.
        """
        self._check_length(hyper, latent, quality, h, w)
        z_mean, z_index = self._hyper_parameters(quality, (h // 4, w // 4))
        z_symbols = _Decoder(self, hyper).take(z_index)
        phi = self._features(_fixed(z_symbols * ONE + z_mean), quality)
        decoder, digest = _Decoder(self, latent), _Digest()
        digest.add(z_symbols)
        values = torch.zeros((self.m, h, w), dtype=torch.float32, device=self.device)  # below 2**24: exact
        for mask in self._passes((h, w)):
            mean, index = self._parameters(phi, values, mask, first=bool(mask[0, 0]))
            symbols = decoder.take(index)
            digest.add(symbols)
            _put(values, mask, symbols, mean)
        return values.div_(ONE), digest.hex()

    def _check_length(self, hyper: bytes, latent: bytes, quality: int, h: int, w: int) -> None:
        """Even the likeliest symbols cost bits: what a header makes us allocate is bounded by the length of its file."""
        z_least = float(self.least[self.tables["z_index"][quality].long().cpu().numpy()].sum())
        for name, data, bits in (
            ("z", hyper, z_least * (h // 4) * (w // 4)),
            ("y", latent, float(self.least.min()) * self.m * h * w),
        ):
            if 8 * len(data) < 0.999 * bits:  # rANS with 31 bits of state loses less than 2^-15 of them
                raise StreamError(
                    f"the {name} string has {len(data)} bytes, an image of this size needs {int(bits / 8)}: "
                    "the file is damaged or forged"
                )

    def _passes(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        mask = anchors(*size, device=self.device)
        return mask, ~mask

    def _hyper_parameters(self, quality: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        mean = self.tables["z_mean"][quality].double()[:, None, None]
        index = self.tables["z_index"][quality].long()[:, None, None].expand(-1, *size)
        return mean, index

    def _layer(self, name: str, a: Tensor, *, relu: bool = True) -> Tensor:
        return exact_conv(a, self.tables[f"{name}.weight"], self.tables[f"{name}.bias"], relu=relu)

    def _features(self, z_hat: Tensor, quality: int) -> Tensor:
        """Integers all along: decoded hyper-latent (m_h, h/4, w/4) -> phi (n, h, w), int16."""
        bias = self.tables["quality_bias"][quality].double()[:, None, None]
        a = (self._layer("h_s.0", z_hat) + bias).clamp(0, LIMIT)
        a = F.pixel_shuffle(self._layer("h_s.1", a), 2)
        a = F.pixel_shuffle(self._layer("h_s.2", a), 2)
        return self._layer("h_s.3", a).short()

    def _parameters(self, phi: Tensor, values: Tensor, mask: Tensor, *, first: bool) -> tuple[Tensor, Tensor]:
        """-> mean (int16, units of 1/ONE) and table index (uint8), each (m, positions of `mask`, row by row).

        values: those of the anchors, which the first pass does not look at. In strips of rows, with a row more above and below.
        """
        h, w = mask.shape
        rows = max(1, STRIP // w)
        parts = [self._strip(phi, values, mask, top, min(h, top + rows), first) for top in range(0, h, rows)]
        mean, index = (torch.cat(kind, 1) for kind in zip(*parts, strict=True))
        return mean, index

    def _strip(
        self, phi: Tensor, values: Tensor, mask: Tensor, top: int, end: int, first: bool
    ) -> tuple[Tensor, Tensor]:
        """`_parameters` of the rows from `top` to before `end`."""
        here = mask[top:end]
        head, a = "anchor", phi[:, top:end][:, here].double()[:, None]
        if not first:
            above = max(0, top - 1)
            context = self._layer("context", _fixed(values[:, above : end + 1].double()), relu=False)
            head, a = "other", torch.cat([a, context[:, top - above :][:, : end - top][:, here][:, None]])
        mean, index = self._layer(f"{head}.1", self._layer(f"{head}.0", a), relu=False)[:, 0].chunk(2)
        index = torch.floor(index * INDEX_GAIN / ONE + 0.5) + INDEX_BIAS
        return mean.short(), index.clamp(0, SCALES - 1).byte()


class _Encoder:
    """Collects symbols (any shape) with their table indices; `bits` is their cost by the tables."""

    def __init__(self, prior: ExactPrior):
        self.prior, self.bits = prior, 0.0
        self.coder = extension("ans").BufferedRansEncoder()

    def add(self, symbols: Tensor, index: Tensor) -> None:
        p = self.prior
        for s, i in zip(symbols.flatten().cpu().split(CHUNK), index.flatten().cpu().split(CHUNK), strict=True):
            self.coder.encode_with_indexes(s.tolist(), i.tolist(), p.cdfs, p.lengths, p.offsets)
            self.bits += _cost(p, s.numpy(), i.numpy())

    def finish(self) -> bytes:
        return self.coder.flush()


class _Decoder:
    """Reads symbols back. The coder itself checks no bounds, so its input is padded to all it could ever consume."""

    def __init__(self, prior: ExactPrior, data: bytes):
        self.prior, self.data, self.coder = prior, data, None
        if len(data) % 4:
            raise StreamError(f"an entropy string has {len(data)} bytes, wanted a multiple of 4: the file is damaged")

    def take(self, index: Tensor) -> Tensor:
        p = self.prior
        if self.coder is None:
            # A symbol takes 2 bytes at most and a long escape what the data or luck pay for: 15 nibbles per nibble of data.
            # The first call asks for all symbols of a hyper-latent, or half of a latent's; past the data come 8 bytes for each.
            padding = 16 * max(1, index.numel()) + 16 * len(self.data) + 4096
            self.coder = extension("ans").RansDecoder()
            self.coder.set_stream(self.data + bytes(padding))
        out = torch.empty(index.numel(), dtype=torch.int32)
        for i, part in zip(index.flatten().cpu().split(CHUNK), out.split(CHUNK), strict=True):
            symbols = self.coder.decode_stream(i.tolist(), p.cdfs, p.lengths, p.offsets)
            part.copy_(torch.tensor(symbols, dtype=torch.int32))
            if part.numel() and (part.max() > LARGEST_SYMBOL or part.min() < -LARGEST_SYMBOL):
                raise StreamError("an entropy string holds an impossible symbol: the file is damaged or forged")
        return out.view(index.shape).to(p.device)


def _round(value: Tensor) -> Tensor:
    """Nearest integer within the codable range."""
    return torch.round(value).clamp(-LARGEST_SYMBOL, LARGEST_SYMBOL)


def _fixed(a: Tensor) -> Tensor:
    return a.clamp(-LIMIT, LIMIT)


def _groups(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """x (channels, ...) on the grid of `mask`, in as few groups of channels as copies in float64 should be made of."""
    return x.split(max(1, GROUP // mask.numel()))


def _put(values: Tensor, mask: Tensor, symbols: Tensor, mean: Tensor) -> None:
    """values (m, h, w) at the positions of `mask`: what was decoded there, in units of 1/ONE."""
    for v, s, m in zip(*(_groups(part, mask) for part in (values, symbols, mean)), strict=True):
        v[:, mask] = (s * ONE + m).float()


class _Digest:
    """SHA-256 of all symbols in the order they are coded, as little-endian int32."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def add(self, symbols: Tensor) -> None:
        self.sha256.update(np.ascontiguousarray(symbols.cpu().numpy(), dtype="<i4").data)

    def hex(self) -> str:
        return self.sha256.hexdigest()


def _bit_table(cdf: Tensor, length: Tensor) -> np.ndarray:
    """-log2 frequency of every table entry; the last entry of a table is its escape."""
    frequency = np.diff(cdf.numpy().astype(np.float64), axis=1)
    column = np.arange(frequency.shape[1])[None]
    valid = column < length.numpy()[:, None] - 1
    return np.where(valid, PRECISION - np.log2(np.maximum(frequency, 1)), 0.0)


def _least_bits(bits: np.ndarray, lengths: list[int]) -> np.ndarray:
    """Cost of the likeliest entry of every table (SCALES,)."""
    column = np.arange(bits.shape[1])[None]
    return np.where(column < np.asarray(lengths)[:, None] - 1, bits, PRECISION).min(axis=1)


def _cost(prior: ExactPrior, symbols: np.ndarray, index: np.ndarray) -> float:
    """Bits of the symbols by the tables; an escaped symbol adds 4 bits per length nibble and per value nibble."""
    escape = np.asarray(prior.lengths)[index] - 2
    entry = symbols - np.asarray(prior.offsets)[index]
    outside = (entry < 0) | (entry >= escape)
    bits = prior.bits[index, np.where(outside, escape, entry)].sum()
    over = np.where(entry < 0, -2 * entry - 1, 2 * (entry - escape))[outside]
    nibbles = np.array([-(-int(v).bit_length() // 4) for v in over], dtype=np.float64)
    return float(bits + 4 * (nibbles + nibbles // 15 + 1).sum())
