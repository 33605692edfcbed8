"""Rate target: the quality whose whole file comes as close to a number of bytes as it can without being larger.

    pixels --g_a, once--> y --write(byte): gain, h_a, entropy coding--> file, for some quality bytes --> the largest that fits
The logarithm of the size is almost linear in the quality, so a few guesses on the line between a file that fits and one that
does not close in on the border, and bisection does the rest. From one byte to the next the size may also fall (symbols round
differently, strings are whole 32-bit words), so the neighbors of the result are written as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from priorcodec.core.errors import ConfigError

if TYPE_CHECKING:
    from priorcodec.core.types import Encoded, Refinement

DEFAULT_QUALITY = 6.0
"""In levels; about 0.065 bits per pixel on photographs."""
LARGEST = 2**40  # of a target in bytes or bits per pixel: more is never reached, and larger numbers do not fit a float
TOLERANCE = 0.03  # a file this much below its target has hit it
NEIGHBORS = 2  # quality bytes on either side of the result that are written for comparison
GUESSES = 4  # on the line, before bisection: it bounds what a strange image costs


@dataclass(frozen=True, kw_only=True)
class RateSearchResult:
    """The result of a search.

    Attributes:
        encoded: The file.
        target: Largest size allowed, in bytes.
        smallest: Smallest file written, in bytes.
        largest: Largest file written, in bytes.
        highest: Whether the file has the encoder's highest quality.
        written: Number of files written during the search.
    """

    encoded: Encoded
    target: int
    smallest: int
    largest: int
    highest: bool
    written: int

    @property
    def hit(self) -> bool:
        """Whether the file is within 3% of the target."""
        return len(self.encoded.data) >= (1 - TOLERANCE) * self.target

    def note(self) -> str | None:
        """One line on why the file is further below the target than 3%; None when it is not."""
        if self.hit:
            return None
        if self.highest:
            return f"{_out_of_range(self.target, self.smallest, self.largest, self.encoded)}: written at the highest quality"
        size = len(self.encoded.data)
        if self.encoded.refinement is not None:
            return f"wanted {_both(self.target, self.encoded)}, the refined file has {_both(size, self.encoded)}"
        return (
            f"wanted {_both(self.target, self.encoded)}, the closest file below has {_both(size, self.encoded)}, "
            f"{1 - size / self.target:.1%} less: between two qualities this image's file grows by more than that"
        )


def check_target(max_bytes: int | None, bpp: float | None) -> None:
    """Raises ConfigError: neither or both are given, or the one is not above 0."""
    if (max_bytes is None) == (bpp is None):
        raise ConfigError(f"got max_bytes={max_bytes} and bpp={bpp}, wanted one of the two")
    value = max_bytes if bpp is None else bpp
    if value is None or not 0 < value < math.inf:
        raise ConfigError(f"the target is {value} {'bytes' if bpp is None else 'bpp'}, wanted a number above 0")


def target_bytes(max_bytes: int | None, bpp: float | None, height: int, width: int) -> int:
    """The one of both targets that is given, in whole bytes. Raises ConfigError: as `check_target`, or less than a byte."""
    check_target(max_bytes, bpp)
    found = int(max_bytes or 0) if bpp is None else int(min(bpp, LARGEST) * height * width / 8)
    found = min(found, LARGEST)
    if found < 1 and bpp is not None:
        raise ConfigError(
            f"{bpp:g} bits for each of {width}x{height} pixels are less than one byte: give a larger bpp, or a size in bytes"
        )
    return found


def search(write: Callable[[int], Encoded], target: int, top: int) -> RateSearchResult:
    """Find the largest file of at most `target` bytes; of two that are equally large, the one of higher quality.

    The highest quality's file is taken whenever it fits. Any other result is the best among itself and `NEIGHBORS` quality
    bytes on either side.

    Args:
        write: Quality byte -> file.
        target: Largest size allowed, in bytes.
        top: The encoder's highest quality byte.

    Raises:
        ConfigError: The smallest file is larger than the target.
    """
    tried: dict[int, Encoded] = {}

    def size(byte: int) -> int:
        if byte not in tried:
            tried[byte] = write(byte)
        return len(tried[byte].data)

    size(0)
    best = top if size(top) <= target else _border(size, target, top)
    settled = best == top
    while not settled:
        at = best
        for byte in range(max(0, at - NEIGHBORS), min(top, at + NEIGHBORS) + 1):
            size(byte)
        best = max((b for b in tried if size(b) <= target), key=lambda b: (size(b), b), default=at)
        settled = best == at
    smallest, largest = min(map(size, tried)), max(map(size, tried))
    if size(best) > target:
        raise ConfigError(f"{_out_of_range(target, smallest, largest, tried[0])}: give a larger target")
    return RateSearchResult(
        encoded=tried[best],
        target=target,
        smallest=smallest,
        largest=largest,
        highest=best == top,
        written=len(tried),
    )


def refined(
    found: RateSearchResult,
    write: Callable[[int], Encoded],
    refine_at: Callable[..., tuple[Encoded, Refinement]],
    top: int,
) -> RateSearchResult:
    """Refine the result of a search: the file with the smallest distortion among at most three that fit.

    The first candidate is the plain file, and the second is the refined file of the same quality. Where refining made that file
    much smaller than the target, there is a third: the refined file of a higher quality. Its plain file exceeds the target by
    about the share that refining saved.

    Args:
        found: The result of `search`.
        write: As for `search`.
        refine_at: Quality byte, and `scale=` of the distortion's measure -> the refined file, or the plain one if no refined one
            is better and fits.
        top: As for `search`.
    """
    first, refinement = refine_at(found.encoded.container.quality)
    options = [(found.encoded, replace(refinement, after=refinement.before)), (first, refinement)]
    if refinement.after.bytes < (1 - TOLERANCE) * found.target and not found.highest:
        # A third: it rarely saves the same.
        room = int((1 - TOLERANCE / 3) * found.target * refinement.before.bytes / refinement.after.bytes)
        options.append(refine_at(search(write, room, top).encoded.container.quality, scale=refinement.scale))
    fitting = [option for option in options if len(option[0].data) <= found.target]
    best, refinement = min(fitting, key=lambda option: option[1].after.distortion)
    return replace(found, encoded=replace(best, refinement=refinement), highest=best.container.quality == top)


def _border(size: Callable[[int], int], target: int, top: int) -> int:
    """A quality byte that fits while the next one does not; 0 if even that does not fit. `top` does not fit."""
    low, high, guesses = 0, top, GUESSES
    while size(low) <= target and high - low > 1:
        share = math.log(target / size(low)) / math.log(size(high) / size(low)) if guesses > 0 else 0.5
        guesses -= 1
        middle = min(max(low + round(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if size(middle) <= target else (low, middle)
    return low


def _out_of_range(target: int, smallest: int, largest: int, encoded: Encoded) -> str:
    return (
        f"wanted {_both(target, encoded)}, but this image's files have {smallest} to {largest} bytes "
        f"({_bpp(smallest, encoded)} to {_bpp(largest, encoded)} bpp)"
    )


def _both(size: int, encoded: Encoded) -> str:
    return f"{size} bytes ({_bpp(size, encoded)} bpp)"


def _bpp(size: int, encoded: Encoded) -> str:
    return f"{8 * size / (encoded.container.height * encoded.container.width):.4f}"
