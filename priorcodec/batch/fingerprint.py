"""Fingerprint of a decode, 32 hex digits: over the file, all settings, and the weights (by content, not by path).

`decode --skip-existing` compares them with what a PNG says. Not in it: the device, whose rounding differs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec.core import container, shipped
from priorcodec.core.errors import AdapterError
from priorcodec.core.io import safetensors
from priorcodec.core.layers import residual, semantic

if TYPE_CHECKING:
    from priorcodec.session import Session

READ_BYTES = 2**26  # larger weight files count by size, time and header
HEADER_BYTES = 2**16
KINDS = (".json", ".safetensors")
# Settings without influence, or there by content.
UNSEEN = ("device", "max_pixels", "tile", "adapter", "backbone", "weights")
BLOB = re.compile(r"[0-9a-f]{64}")  # name of a large file in the Hub's cache: its SHA-256


def fingerprints(session: Session, *, preview: bool, perceptual: bool = False) -> Callable[[bytes], str]:
    """A function from a .gic file's bytes to the fingerprint of the image that `session` decodes from it.

    The weights are looked at once, when it is first called.

    Args:
        session: What decodes.
        preview: Whether by an auxiliary decoder alone, on which of all settings only the layers have any influence.
        perceptual: Whether by the perceptual one.
    """
    made_of: list[Any] = []

    def fingerprint(data: bytes) -> str:
        layers = [shipped.manifest()[path.name] for path in (semantic.SHIPPED, residual.SHIPPED)]
        parts: list[Any] = [f"{session.codec.id:08x}", *layers, preview, perceptual, session.config.layers]
        if not preview:
            if not made_of:
                made_of.extend(_made_of(session))
            parts += [*made_of, _tiles(session, data)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode() + data).hexdigest()[:32]

    return fingerprint


def weights_digest(path: Path) -> str:
    """SHA-256 over the configs and weights in a folder, or of a file; the same wherever they lie and however the path is given.

    Files above `READ_BYTES` count by the SHA-256 that the Hub's cache names them by, or else by size, time and header.
    """
    path = path.resolve()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in KINDS and p.is_file())
    names = ["" if file == path else file.relative_to(path).as_posix() for file in files]
    digest = hashlib.sha256()
    for name, file in zip(names, files, strict=True):
        digest.update(f"{name}\0{_file_digest(file.resolve())}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _file_digest(file: Path) -> str:
    stat = file.stat()
    if stat.st_size > READ_BYTES and BLOB.fullmatch(file.name):
        return file.name
    with file.open("rb") as opened:
        if stat.st_size <= READ_BYTES:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        return f"{stat.st_size} {stat.st_mtime_ns} {hashlib.sha256(opened.read(HEADER_BYTES)).hexdigest()}"


def _made_of(session: Session) -> list[Any]:
    from priorcodec.adapters import file as adapter_file
    from priorcodec.registry.adapter_sources import sha256

    config, registry, spec = session.config, session.registry, session.spec
    settings = {**dataclasses.asdict(config), "dtype": str(session.dtype)}  # what "auto" means here
    made_of: list[Any] = [{key: value for key, value in settings.items() if key not in UNSEEN}]
    if config.blend > 0:  # else the backbone has no part in the image
        adapter = registry.adapter(spec, config.adapter)
        dry_run = adapter_file.is_tiny(safetensors.describe(adapter, AdapterError)[0])  # decodes without weights
        weights = "tiny" if dry_run else weights_digest(registry.weights(spec, config.weights))
        made_of += [spec.name, weights, sha256(adapter)]
    return made_of


def _tiles(session: Session, data: bytes) -> list[int]:
    """How many rows and columns of tiles; the same numbers are the same tiles on every machine."""
    config = session.config
    content = container.unpack(data, max_pixels=config.max_pixels, layers=config.layer_names)
    plan = session.plan(content.height, content.width)
    return [len(plan.rows), len(plan.columns)]
