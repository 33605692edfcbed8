"""Training images: files, folders and tar shards, read where they are and cropped at random.

    sources --find--> index (run/images.json) --DeterministicCrops[step, slot]--> crop --DataLoader--> batch
Each crop is a function of (seed, step, slot) and the images alone, whichever process, loader worker or resumed run asks for it.
Pixels come from `core.image.io.load`, as in `encode`. An image or shard that cannot be read is named and left out.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from priorcodec.core.errors import ImageError, TrainingError
from priorcodec.training.sources import Entry, read

log = logging.getLogger(__name__)

ENLARGED = (1.25, 2.5)  # range of the factor
LARGEST_WEIGHT = 8.0  # large images are drawn more often, up to so many times
DRAWS = 100  # images in a row that may be unreadable


class DeterministicCrops(Dataset):
    """(step, slot) -> a random square crop, uint8 (3, size, size), flipped at random; large images are drawn more often.

    Args:
        entries: the images; those smaller than `size` are not used.
        size: side of the crops in pixels.
        seed: seed of the whole sequence.
        enlarged: share of the crops of which a part is enlarged (Lanczos) to the whole.
        background: color behind transparent images; None leaves them out.

    Raises:
        TrainingError: no image is large enough; when drawing: no image can be read any more.
    """

    def __init__(
        self, entries: Sequence[Entry], size: int, *, seed: int, enlarged: float = 0.0, background: str | None = "white"
    ):
        self.entries = [entry for entry in entries if min(entry.width, entry.height) >= size]
        if not self.entries:
            raise TrainingError(
                f"none of the {len(entries)} images of data= has {size} pixels on both sides: wanted larger ones, or crop="
            )
        self.size, self.seed, self.enlarged, self.background = size, seed, enlarged, background
        area = np.array([entry.width * entry.height for entry in self.entries], dtype=np.float64)
        weight = np.minimum(area / size**2, LARGEST_WEIGHT)
        self.edges = np.cumsum(weight / weight.sum())
        self.named: set[int] = set()

    def __getitem__(self, index: tuple[int, int]) -> Tensor:
        rng = np.random.default_rng([self.seed, *index])
        pixels = self._draw(rng)
        top, left = (int(rng.integers(side - self.size + 1)) for side in pixels.shape[:2])
        crop = pixels[top : top + self.size, left : left + self.size]
        crop = (crop[:, ::-1] if rng.random() < 0.5 else crop).copy()
        if rng.random() < self.enlarged:
            part = round(self.size / rng.uniform(*ENLARGED))
            small = Image.fromarray(crop[:part, :part])
            crop = np.array(small.resize((self.size, self.size), Image.Resampling.LANCZOS))
        return torch.from_numpy(crop).permute(2, 0, 1)

    def batch(self, step: int, count: int) -> Tensor:
        """The crops of one step, uint8 (count, 3, size, size)."""
        return torch.stack([self[step, slot] for slot in range(count)])

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """The next image that can be read; every process meets the same unreadable ones."""
        for _ in range(DRAWS):
            i = min(int(np.searchsorted(self.edges, rng.random(), side="right")), len(self.edges) - 1)
            try:
                pixels = read(self.entries[i], background=self.background)
                if min(pixels.shape[:2]) < self.size:
                    raise ImageError(f"smaller than crop={self.size}")
                return pixels
            except ImageError as error:
                if i not in self.named:
                    log.warning("left out: %s (%s)", self.entries[i].name, error)
                self.named.add(i)
        raise TrainingError(f"data=: {DRAWS} images in a row cannot be read: were they moved or deleted?")


class StepSampler:
    """Batch sampler without end: for each step from `step` on one list of (step, slot) per entry of `parts`."""

    def __init__(self, step: int, parts: Sequence[Sequence[int]]):
        self.step, self.parts = step, parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for now in itertools.count(self.step):
            for part in self.parts:
                yield [(now, slot) for slot in part]


def loader(crops: DeterministicCrops, *, step: int, parts: Sequence[Sequence[int]], workers: int) -> Iterator[Tensor]:
    """Endless batches from `step` on, uint8 (b, 3, size, size): for each step one batch per entry of `parts`, a list of slots.

    Raises:
        TrainingError: see `DeterministicCrops`.
    """
    sampler: Any = StepSampler(step, parts)
    own = torch.Generator()  # the loader draws a number from it; torch's global one is left alone
    pin = torch.cuda.is_available()
    batches = DataLoader(crops, batch_sampler=sampler, num_workers=workers, pin_memory=pin, generator=own)
    try:
        yield from batches
    except TrainingError as error:  # a worker's message has its traceback in front
        raise TrainingError(str(error).strip().splitlines()[-1].rpartition("TrainingError: ")[2]) from error
