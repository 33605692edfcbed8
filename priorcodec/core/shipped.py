"""The weight files that come with this package, each pinned by its SHA-256 in `weights/manifest.json`.

A new or changed file needs its line there: `sha256sum *.safetensors` in that folder prints the values.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from priorcodec.core.errors import WeightsError

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
