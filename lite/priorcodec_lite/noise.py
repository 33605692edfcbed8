"""The noise of a file: what `torch.Generator().manual_seed(seed)` and `torch.randn` draw, in numpy.

A Mersenne twister of 32 bits (Matsumoto and Nishimura 1998), whose low 24 bits of each number are a uniform one, and Box and
Muller's transform on blocks of 16: the first eight numbers give the radii, the last eight the angles. Where a length is no
multiple of 16, the last 16 values are drawn again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 16


def normal(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers of a shape with at least 16 elements; seed: 0 to 2**32 - 1."""
    count = int(np.prod(shape))
    twister = np.random.RandomState(seed)  # seeded as torch's is

    def uniform(length: int) -> NDArray[np.float32]:
        numbers = twister.randint(0, 2**32, length, np.uint32)
        return ((numbers & 0xFFFFFF) * 2.0**-24).astype(np.float32)

    values = uniform(count)
    whole = count - count % BLOCK
    values[:whole] = _box_muller(values[:whole])
    if whole < count:
        values[count - BLOCK :] = _box_muller(uniform(BLOCK))
    return values.reshape(shape)


def _box_muller(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    first, second = uniform.reshape(-1, 2, BLOCK // 2).transpose(1, 0, 2)
    radius = np.sqrt(-2 * np.log(1 - first))
    angle = np.float32(2 * np.pi) * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
