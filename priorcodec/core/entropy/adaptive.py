"""Adaptive binary decisions for the entropy coder: integer counts per context, as in JBIG2. No torch.

    decision of a context --counts--> frequency of 1 --AnsCoder--> one string, in the form of `coder`
A decision's frequency of 1 is floor(2**16 * ones / (zeros + ones)), held between `LEAST` and 2**16 - `LEAST`. Afterwards the
count of what occurred grows by `GROWTH`, and both are halved (rounded up) when they add up to more than `MOST`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.coder import Ans, categorical, from_string, to_string
from priorcodec.core.entropy.tables import PRECISION
from priorcodec.core.errors import StreamError

GROWTH = 16
MOST = 16 * 255
LEAST = 32


class Decisions:
    """Counts of all contexts while one string is written or read.

    Args:
        start: Integers (contexts, 2) of at least 1: counts of zeros and ones before the first decision.
    """

    def __init__(self, start: NDArray[np.integer]):
        self._counts: list[list[int]] = start.astype(np.int64).tolist()

    def frequency(self, context: int) -> int:
        """Of a one, in 2**-16."""
        zeros, ones = self._counts[context]
        frequency = (ones << PRECISION) // (zeros + ones)
        if LEAST <= frequency <= (1 << PRECISION) - LEAST:
            return frequency
        return LEAST if frequency < LEAST else (1 << PRECISION) - LEAST

    def learn(self, context: int, bit: int) -> None:
        counts = self._counts[context]
        counts[bit] += GROWTH
        if counts[0] + counts[1] > MOST:
            counts[:] = [(count + 1) >> 1 for count in counts]


class DecisionEncoder:
    """Collects decisions, then writes the string. `bit` and `choice` answer what they are given, as the decoder's would."""

    def __init__(self, start: NDArray[np.integer]):
        self._decisions = Decisions(start)
        self._parts: list[tuple[int, object]] = []

    def bit(self, context: int, value: int) -> int:
        self._parts.append((value, _binary(self._decisions.frequency(context))))
        self._decisions.learn(context, value)
        return value

    def choice(self, count: int, value: int) -> int:
        """One of `count` values that are all as likely."""
        if count > 1:
            self._parts.append((value, _even(count)))
        return value

    def finish(self) -> bytes:
        coder = Ans()
        for value, model in reversed(self._parts):
            coder.encode_reverse(np.array([value], np.int32), model)
        return to_string(coder)


class DecisionDecoder:
    """Reads decisions back. Any bytes give decisions; whether all bytes were used shows at `finish`.

    Raises:
        StreamError: The string ends with a zero byte.
    """

    def __init__(self, data: bytes, start: NDArray[np.integer]):
        self._decisions, self._coder = Decisions(start), from_string(data)

    def bit(self, context: int, value: int = 0) -> int:
        bit = int(self._coder.decode(_binary(self._decisions.frequency(context))))
        self._decisions.learn(context, bit)
        return bit

    def choice(self, count: int, value: int = 0) -> int:
        return int(self._coder.decode(_even(count))) if count > 1 else 0

    def finish(self) -> None:
        """Raises StreamError: the string holds more than was read."""
        if not self._coder.is_empty():
            raise StreamError("a layer does not end where its content ends: the file is damaged or forged")


@lru_cache(maxsize=1 << 14)
def _binary(ones: int) -> object:
    return categorical(np.array([(1 << PRECISION) - ones, ones]))


@lru_cache(maxsize=64)
def _even(count: int) -> object:
    edges = [(i << PRECISION) // count for i in range(count + 1)]
    return categorical(np.diff(edges))
