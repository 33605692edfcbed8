"""The card beside an adapter: README.md in the format of the Hugging Face Hub, made from what the file says of itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.file import AdapterFile
from priorcodec.backbones.spec import UNPINNED
from priorcodec.core.errors import AdapterError
from priorcodec.core.io import atomic

NAME = "README.md"
LIBRARY = "priorcodec"
LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "openrail")
ABOUT = (
    "kind",
    "backbone",
    "revision",
    "source",
    "backbone_parameters",
    "encoder",
    "rules",
    "config",
    "license",
    "data",
)

TEXT = """\
# {backbone} adapter for PriorCodec

With this adapter the diffusion model {model} decodes the `.gic` files of PriorCodec's encoder `{encoder}`.

## Use

    priorcodec decode photo.gic --backbone {backbone} --adapter {file}

takes the file from this folder; `--adapter OWNER/REPO/{file}@COMMIT` fetches it from the Hub (COMMIT: its 40 hex digits).

## What it is

{what}

Settings: `{settings}`

## Training

Trained on: {data}

{training}

## Limits

- Only for `{backbone}`{at} and for files of encoder `{encoder}`; anything else is refused.
- The decoder is generative: at low rates fine detail, small text and faces are plausible, not evidence.
- The backbone is not included; its own license applies to it and may apply to this adapter.
"""


DRY_RUN = """\
# {backbone}: adapter of a dry run

Made with `tiny=true`, for the tiny random model that the plugin of {backbone} builds for tests.

It can show that training, file and decoding fit together:

    priorcodec decode photo.gic --backbone {backbone} --adapter {file}

decodes through that tiny model, without weights. It cannot decode through {model}, and its images are not to be looked at. Train
without `tiny=true` for that; do not publish this file.

## What it is

{what}

Settings: `{settings}`

## Training

{training}
"""


def write(source: Path, folder: Path | None = None) -> Path:
    """Write README.md beside an adapter; a card that already describes this very file is left as people edited it.

    Args:
        source: The adapter.
        folder: Another folder than the adapter's.

    Raises:
        AdapterError: not an adapter, or a README.md of something else lies there.
    """
    from huggingface_hub import ModelCard, ModelCardData

    file = adapter_file.read(source)
    missing = [key for key in ("backbone", "revision", "encoder") if key not in file.metadata]
    if missing:
        raise AdapterError(f"{source} does not state its {', '.join(missing)}: get the adapter again")
    data = source.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    path = (folder or source.parent) / NAME
    check_free(path.parent)
    if path.exists() and digest in path.read_text(encoding="utf-8"):
        return path
    header = ModelCardData(**_front_matter(file.metadata)).to_yaml()
    card = ModelCard(f"---\n{header}\n---\n\n{_body(file, digest, len(data))}")
    atomic.write(path, str(card).encode())
    return path


def check_free(folder: Path) -> None:
    """Raises AdapterError: there is a README.md in the folder that is not an adapter's card."""
    path = folder / NAME
    if not path.exists():
        return
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        about = metadata_load(path) or {}
    except (OSError, ValueError, YAMLError):
        about = {}
    if about.get("library_name") != LIBRARY:
        raise AdapterError(f"{path} is not an adapter's card and stays: move the adapter to a folder of its own")


def publishable(source: Path, folder: Path) -> Path:
    """The card to upload with an adapter: the one beside it, or else a new one in `folder`.

    Raises:
        AdapterError: As of `write`, or the adapter is of a dry run.
    """
    if adapter_file.read(source).tiny:
        raise AdapterError(f"{source} is of a dry run (tiny=true), whose images nobody can use: push a trained adapter")
    return write(source, None if source.with_name(NAME).exists() else folder)


def parts(file: AdapterFile) -> dict[str, int]:
    """Parameters by part, as the tensors are named: lora, and bridge, fusion, tokens and so on of the adapter's own."""
    count: Counter[str] = Counter()
    for name, value in file.tensors.items():
        kind, _, rest = name.partition(".")
        count[rest.partition(".")[0] if kind == "own" else kind] += value.numel()
    return dict(sorted(count.items()))


def _front_matter(metadata: Mapping[str, str]) -> dict[str, Any]:
    license = metadata.get("license", "unknown")
    known = license.lower() in (*LICENSES, "unknown")
    fields: dict[str, Any] = {
        "license": license.lower() if known else "other",
        "library_name": LIBRARY,
        "tags": [LIBRARY, "image-compression", metadata["backbone"]],
    }
    if not known:
        fields["license_name"] = "-".join(license.lower().split())
    if _on_the_hub(metadata):
        fields |= {"base_model": metadata["source"], "base_model_relation": "adapter"}
    return fields


def _body(file: AdapterFile, digest: str, size: int) -> str:
    about, count = file.metadata, parts(file)
    total = sum(count.values())
    whole = about.get("backbone_parameters", "")
    share = f" ({total / int(whole):.2%} of the backbone's)" if whole.isdecimal() and int(whole) else ""
    pinned = about["revision"] != UNPINNED
    at = f" at `{about['revision']}`" if pinned else ", in no stated version"
    what = {
        "backbone": f"{about['backbone']}, {about.get('source', 'source not stated')}{at}",
        "encoder": f"`{about['encoder']}`",
        "file": f"`{file.path.name}`, {size / 2**20:.2f} MiB, SHA-256 `{digest}`",
        "parameters": f"{total:,}{share}: " + ", ".join(f"{name} {n:,}" for name, n in count.items()),
        "license": about.get("license", "not stated"),
    }
    text = DRY_RUN if file.tiny else TEXT
    return text.format(
        backbone=about["backbone"],
        model=f"[{about['source']}](https://huggingface.co/{about['source']})"
        if _on_the_hub(about)
        else about["backbone"],
        encoder=about["encoder"],
        at=at,
        file=file.path.name,
        what=_table(what),
        settings=json.dumps(vars(file.config)),
        data=about.get("data") or "not stated",
        training=_table({key: value for key, value in sorted(about.items()) if key not in ABOUT}),
    )


def _on_the_hub(metadata: Mapping[str, str]) -> bool:
    """A Hub id has a commit of 40 digits; shipped weights have a hash of 64, weights without either the one of `UNPINNED`."""
    id_like = re.fullmatch(r"[\w.-]+/[\w.-]+", metadata.get("source", ""))
    return id_like is not None and len(metadata["revision"]) == 40 and metadata["revision"] != UNPINNED


def _table(rows: Mapping[str, str]) -> str:
    cells = [(key, " ".join(value.split()).replace("|", "\\|")) for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in cells)]) if rows else ""
