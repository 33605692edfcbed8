"""The weight files that come with this package, each pinned by its SHA-256 in `weights/manifest.json`.

A new or changed file needs its line there: `sha256sum *.safetensors` in that folder prints the values.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from priorcodec.core.errors import WeightsError
from priorcodec.core.io.names import one_line

FOLDER = Path(__file__).parent.parent / "weights"
ENCODER = FOLDER / "encoder.safetensors"


@functools.cache
def manifest() -> dict[str, str]:
    """SHA-256 (64 hex digits) by file name."""
    return json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


def verify(path: Path, data: bytes) -> None:
    """Compare a file of this package with the manifest; files elsewhere pass.

    Args:
        path: The file that was read.
        data: Its bytes.

    Raises:
        WeightsError: It is another file than the one that was shipped.
    """
    if path.parent.resolve() != FOLDER.resolve():
        return
    sha256, wanted = hashlib.sha256(data).hexdigest(), manifest().get(path.name, "")
    if sha256 != wanted:
        raise WeightsError(
            f"{path.name} has SHA-256 {sha256[:12]}, wanted {wanted[:12] or 'no such file'}: reinstall priorcodec"
        )


@contextlib.contextmanager
def opened(path: Path, holds: str) -> Iterator[tuple[Any, bytes]]:
    """A weight file, open for numpy and compared with the manifest, and its bytes.

    Args:
        path: The file.
        holds: What is read from it, for the message.

    Raises:
        WeightsError: It is missing or another one than was shipped, or what the caller reads from it is not what it wants.
    """
    from safetensors import SafetensorError, safe_open

    try:
        data = path.read_bytes()
        verify(path, data)
        with safe_open(path, framework="numpy") as file:
            yield file, data
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        remedy = "reinstall priorcodec" if path.parent == FOLDER else "get it again, or export it again"
        raise WeightsError(f"{path} has no readable {holds} ({one_line(error)}): {remedy}") from error
