"""Random crops of packed training images, each one a function of (seed, step, slot).

python -m recipes.encoder2.crops SHARD.tar... runs/cache/train     # packs them once: 3 bytes a pixel, 3.3 GB for all shards
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from priorcodec.core.errors import ImageError
from priorcodec.core.image import io as image_io


def pack(shards: Sequence[Path], target: Path) -> None:
    """Decode all images of tar shards into `target`.bin (uint8, h*w*3 each) and `target`.json (their heights and widths)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shapes: list[tuple[int, ...]] = []
    with target.with_suffix(".bin").open("wb") as out:
        for shard in shards:
            with tarfile.open(shard) as files:
                for member in filter(tarfile.TarInfo.isfile, files):
                    data = files.extractfile(member)
                    assert data is not None
                    try:
                        pixels = image_io.load(io.BytesIO(data.read()), background="white").pixels
                    except ImageError as error:
                        print(f"left out: {member.name} ({error})", file=sys.stderr)
                        continue
                    shapes.append(pixels.shape[:2])
                    out.write(pixels.tobytes())
    target.with_suffix(".json").write_text(json.dumps(shapes))


class Crops:
    """Crops out of `target`.bin and `target`.json; large images are drawn more often."""

    def __init__(self, target: Path, *, seed: int):
        self.shapes = np.array(json.loads(target.with_suffix(".json").read_text()), dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.shapes[:, 0] * self.shapes[:, 1] * 3)[:-1]])
        self.data = np.memmap(target.with_suffix(".bin"), dtype=np.uint8, mode="r")
        self.seed = seed
        self.edges: dict[int, np.ndarray] = {}

    def batch(self, step: int, count: int, size: int, *, enlarged: float = 0.0) -> Tensor:
        """-> uint8 (count, 3, size, size). enlarged: share of crops of which a part is enlarged to the whole (Lanczos)."""
        return torch.stack([self.crop(step, slot, size, enlarged) for slot in range(count)])

    def crop(self, step: int, slot: int, size: int, enlarged: float) -> Tensor:
        rng = np.random.default_rng([self.seed, step, slot])
        if size not in self.edges:
            weight = np.minimum(self.shapes[:, 0] * self.shapes[:, 1] / size**2, 8.0) * (self.shapes.min(1) >= size)
            self.edges[size] = np.cumsum(weight / weight.sum())
        i = min(int(np.searchsorted(self.edges[size], rng.random(), side="right")), len(self.shapes) - 1)
        h, w = self.shapes[i]
        image = self.data[self.starts[i] : self.starts[i] + h * w * 3].reshape(h, w, 3)
        top, left = rng.integers(h - size + 1), rng.integers(w - size + 1)
        part = image[top : top + size, left : left + size]
        if rng.random() < enlarged:
            k = round(size / rng.uniform(1.25, 2.2))
            part = np.asarray(Image.fromarray(part[:k, :k]).resize((size, size), Image.Resampling.LANCZOS))
        if rng.random() < 0.5:
            part = part[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))


if __name__ == "__main__":
    *sources, destination = map(Path, sys.argv[1:])
    pack(sources, destination)
