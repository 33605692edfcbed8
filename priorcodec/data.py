"""Training pictures: folders and tar shards decoded once to 8-bit RGB, then cropped at random.

All decoded pictures stay in one memory-mapped file: several trainings share it, and no loader process is needed.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff"}


def read_pictures(sources: Sequence[str | Path]) -> Iterator[tuple[str, bytes]]:
    """Name and encoded bytes of every picture in the given folders, tar shards and files, in sorted order."""
    for source in map(Path, sources):
        if source.suffix == ".tar":
            with tarfile.open(source) as tar:
                for member in tar:
                    if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                        yield member.name, tar.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]
        elif source.is_dir():
            for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES):
                yield str(path), path.read_bytes()
        else:
            yield str(source), source.read_bytes()


def pack(sources: Sequence[str | Path], target: Path, *, threads: int = 2) -> None:
    """Decode all pictures into `target`.bin (uint8, h*w*3 each, one after another) and `target`.json (their shapes)."""

    def decode(item: tuple[str, bytes]) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(item[1])).convert("RGB"))

    target.parent.mkdir(parents=True, exist_ok=True)
    shapes: list[tuple[int, int]] = []
    part = target.with_suffix(".bin.part")
    with part.open("wb") as out, ThreadPoolExecutor(threads) as pool:
        for picture in pool.map(decode, read_pictures(sources)):
            shapes.append((picture.shape[0], picture.shape[1]))
            out.write(picture.tobytes())
    os.replace(part, target.with_suffix(".bin"))
    target.with_suffix(".json").write_text(json.dumps(shapes))


class Crops:
    """Random square crops of packed pictures, flipped at random; large pictures are drawn more often.

    Args:
        target: what `pack` wrote; size: side in pixels; seed: of the whole sequence of crops.
    """

    def __init__(self, target: Path, size: int, *, seed: int):
        shapes = np.array(json.loads(target.with_suffix(".json").read_text()), dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(shapes[:, 0] * shapes[:, 1] * 3)[:-1]])
        fits = shapes.min(1) >= size
        self.shapes, self.starts, self.size = shapes[fits], starts[fits], size
        self.data = np.memmap(target.with_suffix(".bin"), dtype=np.uint8, mode="r")
        weight = np.minimum(self.shapes[:, 0] * self.shapes[:, 1] / size**2, 8.0)
        self.weight = weight / weight.sum()
        self.rng = np.random.default_rng(seed)

    def batch(self, count: int) -> Tensor:
        """-> uint8 (count, 3, size, size)."""
        out = np.empty((count, self.size, self.size, 3), dtype=np.uint8)
        for k, i in enumerate(self.rng.choice(len(self.shapes), count, p=self.weight)):
            h, w = self.shapes[i]
            picture = self.data[self.starts[i] : self.starts[i] + h * w * 3].reshape(h, w, 3)
            top, left = self.rng.integers(h - self.size + 1), self.rng.integers(w - self.size + 1)
            crop = picture[top : top + self.size, left : left + self.size]
            out[k] = crop[:, ::-1] if self.rng.random() < 0.5 else crop
        return torch.from_numpy(out).permute(0, 3, 1, 2)


def to_signed(x: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return x.float() / 127.5 - 1
