"""The structure layer: a map of regions on a grid of 16 pixels, coded without loss. numpy only.

Labels are coded in rows, each as decisions against its coded neighbors (as palette coding in HEVC-SCC copies from above and from
the left), with adaptive counts per pattern of neighbors (as JBIG2 does for bilevel images):
    equal to W? to N? to NW? to NE?     context: which of the neighbors are equal to each other
    else: a label that is new?          context: how many labels there are
    else: which of the old ones         all as likely
Labels are numbered by their first appearance, so a map has one form only and the decoder is not told how many there are.
The time that reading takes depends on the size of the map alone: a decision can cost next to nothing, so short strings can be
maps of many borders.
docs/format.md specifies it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.adaptive import DecisionDecoder, DecisionEncoder
from priorcodec.core.errors import StreamError

CELL = 16  # pixels to a label, both ways
MOST_REGIONS = 32
PATTERNS = 1 << 8
CONTEXTS = 4 * PATTERNS + MOST_REGIONS

Labels = NDArray[np.uint8]


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map of an image in pixels: cells at its right and bottom may be cut."""
    return -(-height // CELL), -(-width // CELL)


def canonical(labels: NDArray[np.integer]) -> Labels:
    """Any map (rows, columns) -> the same regions, numbered by their first appearance.

    Raises:
        StreamError: More than `MOST_REGIONS` regions.
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    if len(first) > MOST_REGIONS:
        raise StreamError(f"the map has {len(first)} regions, wanted at most {MOST_REGIONS}")
    rank = np.empty(len(first), np.uint8)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.uint8)
    return rank[inverse].reshape(labels.shape)


def pack(labels: Labels, start: NDArray[np.integer]) -> bytes:
    """A canonical map (rows, columns) -> the layer's bytes. start: counts (CONTEXTS, 2) of the weight file."""
    coder, known = DecisionEncoder(start), labels.tolist()
    rows, columns = labels.shape
    walk(rows, columns, coder.bit, coder.choice, lambda row, column: known[row][column])
    return coder.finish()


def unpack(data: bytes, rows: int, columns: int, start: NDArray[np.integer]) -> Labels:
    """The layer's bytes -> the map (rows, columns).

    Raises:
        StreamError: The bytes do not end where the map ends.
    """
    coder = DecisionDecoder(data, start)
    labels = walk(rows, columns, coder.bit, coder.choice, lambda row, column: -1)
    coder.finish()
    return np.array(labels, np.uint8)


def regions(labels: Labels) -> int:
    """Number of regions of a canonical map."""
    return int(labels.max()) + 1


def walk(
    rows: int,
    columns: int,
    bit: Callable[[int, int], int],
    choice: Callable[[int, int], int],
    known: Callable[[int, int], int],
) -> list[list[int]]:
    """Code all labels in rows, for encoder and decoder alike: never more than five decisions and a choice a label.

    Args:
        rows, columns: Size of the map.
        bit: (context, decision to be written) -> the decision.
        choice: (number of values, value to be written) -> the value.
        known: (row, column) -> the label to be written; anything when reading.
    """
    labels: list[list[int]] = []
    used = 1  # the first label is 0 and not coded
    for row in range(rows):
        line = [0] * columns
        labels.append(line)
        above = labels[row - 1] if row else line
        second = labels[row - 2] if row > 1 else above
        for column in range(columns):
            if not row and not column:
                continue
            w = line[column - 1] if column else above[column]
            n = above[column] if row else w
            nw = above[column - 1] if row and column else (n if row else w)
            ne = above[column + 1] if row and column + 1 < columns else n
            ww = line[column - 2] if column > 1 else w
            nn = second[column] if row > 1 else n
            pattern = (
                (n == w)
                | (nw == w) << 1
                | (nw == n) << 2
                | (ne == n) << 3
                | (ne == w) << 4
                | (ww == w) << 5
                | (nn == n) << 6
                | (ww == nw) << 7
            )
            label = known(row, column)
            tried: list[int] = []
            for i, neighbor in enumerate((w, n, nw, ne)):
                if neighbor not in tried:
                    if bit(i * PATTERNS + pattern, int(label == neighbor)):
                        label = neighbor
                        break
                    tried.append(neighbor)
            else:
                label, used = _other(bit, choice, label, tried, used)
            line[column] = label
    return labels


def _other(
    bit: Callable[[int, int], int], choice: Callable[[int, int], int], label: int, tried: list[int], used: int
) -> tuple[int, int]:
    """A label that no neighbor has -> it and the number of labels used."""
    old = used - len(tried)  # labels that are left, numbered without those that were tried
    if used < MOST_REGIONS and (not old or bit(4 * PATTERNS + used - 1, int(label == used))):
        return used, used + 1
    label = choice(old, label - sum(other < label for other in tried))
    for other in sorted(tried):
        label += label >= other
    return label, used
