"""Kinds of arguments, each checked with one line that says what was got and what was wanted. numpy's numbers are numbers."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from priorcodec.core.errors import ConfigError


def number(name: str, value: Any) -> float:
    """A number as Python's own. Raises ConfigError: it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name}={value!r}: wanted a number")
    return value if isinstance(value, int) else float(value)  # pyright: ignore[reportArgumentType]


def whole(name: str, value: Any) -> int:
    """A whole number as Python's own, 2.0 too. Raises ConfigError: it is none."""
    if type(value) is int:  # of any size
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value != math.floor(value):
        raise ConfigError(f"{name}={value!r}: wanted a whole number")
    return int(value)  # pyright: ignore[reportArgumentType]


def flag(name: str, value: Any) -> bool:
    """Raises ConfigError: neither True nor False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r}: wanted True or False")
    return value
