"""Training images: folders and tar shards decoded once to 8-bit RGB, then cropped at random.

All decoded images stay in one memory-mapped file: several trainings, processes and loader workers share it.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from priorcodec.core.errors import TrainingError
from priorcodec.core.io import atomic

ENLARGED = (1.25, 2.5)  # how many times
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff"}


def read_images(sources: Sequence[str | Path]) -> Iterator[tuple[str, bytes]]:
    """Name and encoded bytes of every image in the given folders, tar shards and files, in sorted order."""
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
    """Decode all images into `target`.bin (uint8, h*w*3 each, one after another) and `target`.json (their shapes).

    An unreadable one is named on stderr and left out; few images are in memory at a time.
    """

    def decode(item: tuple[str, bytes]) -> np.ndarray | None:
        try:
            return np.asarray(Image.open(io.BytesIO(item[1])).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"left out: {item[0]} ({str(error).splitlines()[0]})", file=sys.stderr)
            return None

    target.parent.mkdir(parents=True, exist_ok=True)
    shapes: list[tuple[int, int]] = []
    part = target.with_suffix(".bin.part")
    with part.open("wb") as out, ThreadPoolExecutor(threads) as pool:
        images = read_images(sources)
        while some := list(itertools.islice(images, 4 * threads)):
            for image in pool.map(decode, some):
                if image is not None:
                    shapes.append((image.shape[0], image.shape[1]))
                    out.write(image.tobytes())
    os.replace(part, target.with_suffix(".bin"))
    target.with_suffix(".json").write_text(json.dumps(shapes))


class Crops:
    """Random square crops of packed images, flipped at random; large images are drawn more often.

    Args:
        target: what `pack` wrote; size: side in pixels; seed: of the whole sequence of crops.
    """

    def __init__(self, target: Path, size: int, *, seed: int):
        shapes = np.array(json.loads(target.with_suffix(".json").read_text()), dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(shapes[:, 0] * shapes[:, 1] * 3)[:-1]])
        fits = shapes.min(1) >= size
        if not fits.any():
            raise TrainingError(f"{target}: no image has {size} pixels on both sides: take a smaller crop")
        self.shapes, self.starts, self.size = shapes[fits], starts[fits], size
        self.data = np.memmap(target.with_suffix(".bin"), dtype=np.uint8, mode="r")
        weight = np.minimum(self.shapes[:, 0] * self.shapes[:, 1] / size**2, 8.0)
        self.weight = weight / weight.sum()
        self.rng = np.random.default_rng(seed)

    def batch(self, count: int) -> Tensor:
        """-> uint8 (count, 3, size, size)."""
        out = np.empty((count, self.size, self.size, 3), dtype=np.uint8)
        for k, i in enumerate(self.rng.choice(len(self.shapes), count, p=self.weight)):
            out[k] = self._cut(i, self.rng)
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def _cut(self, i: int, rng: np.random.Generator) -> np.ndarray:
        h, w = self.shapes[i]
        image = self.data[self.starts[i] : self.starts[i] + h * w * 3].reshape(h, w, 3)
        top, left = rng.integers(h - self.size + 1), rng.integers(w - self.size + 1)
        crop = image[top : top + self.size, left : left + self.size]
        return crop[:, ::-1] if rng.random() < 0.5 else crop


class Slots(Crops, Dataset):
    """The same crops by place: (step, slot) -> uint8 (3, size, size), whichever process, worker or resumed run asks.

    enlarged: share of them of which a part is enlarged (Lanczos) to the whole: smooth, as large images are.
    """

    def __init__(self, target: Path, size: int, *, seed: int, enlarged: float = 0.0):
        super().__init__(target, size, seed=seed)
        self.seed, self.edges, self.enlarged = seed, np.cumsum(self.weight), enlarged

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        rng = np.random.default_rng([self.seed, *place])
        i = min(int(np.searchsorted(self.edges, rng.random(), side="right")), len(self.edges) - 1)
        crop = self._cut(i, rng).copy()
        if rng.random() < self.enlarged:
            part = round(self.size / rng.uniform(*ENLARGED))
            small = Image.fromarray(crop[:part, :part])
            crop = np.array(small.resize((self.size, self.size), Image.Resampling.LANCZOS))
        return torch.from_numpy(crop).permute(2, 0, 1)


def loader(slots: Slots, *, step: int, parts: Sequence[Sequence[int]], workers: int) -> DataLoader:
    """Endless batches from `step` on: for each step one batch per entry of `parts`, each a list of slots."""

    def places() -> Iterator[list[tuple[int, int]]]:
        for now in itertools.count(step):
            for part in parts:
                yield [(now, slot) for slot in part]

    sampler: Any = _Places(places)
    own = torch.Generator()  # the loader draws a number from it; torch's global one is left alone
    pin = torch.cuda.is_available()
    return DataLoader(slots, batch_sampler=sampler, num_workers=workers, pin_memory=pin, generator=own)


class _Places:
    """What DataLoader wants of a batch sampler."""

    def __init__(self, make: Callable[[], Iterator[list[tuple[int, int]]]]):
        self.make = make

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.make()


def packed(sources: Sequence[str | Path], cache: Path) -> Path:
    """The packed images of `sources`: the one source itself if it is packed, else `cache`, decoded now if it is not there.

    Raises:
        TrainingError: a source that does not exist, or no image in any.
    """
    first = Path(sources[0])
    if (
        len(sources) == 1
        and not first.is_dir()
        and first.with_suffix(".bin").exists()
        and first.with_suffix(".json").exists()
    ):
        return first.with_suffix("")
    missing = [str(source) for source in sources if not Path(source).exists()]
    if missing:
        raise TrainingError(f"data={missing[0]}: no such folder, image, tar shard or packed file")
    note = cache.with_suffix(".sources")
    wanted = json.dumps([str(Path(source).resolve()) for source in sources])
    if not (note.exists() and note.read_text() == wanted):
        pack(sources, cache)
        if cache.with_suffix(".json").read_text() == "[]":
            raise TrainingError(f"data={','.join(map(str, sources))}: no image in it ({', '.join(sorted(SUFFIXES))})")
        atomic.write(note, wanted.encode())
    return cache


def to_signed(x: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return x.float() / 127.5 - 1
