"""Our safetensors files: written to the same bytes for the same content, read only if they say they are the wanted kind.

Imports no torch before tensors are asked for, so that a file can be described without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec.core.errors import PriorCodecError
from priorcodec.core.io.names import printable

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 2**24  # bytes of names, shapes and metadata; a large adapter's are 100 thousand


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """One safetensors file. The library writes metadata in a random order, so the header is written again, sorted."""
    from safetensors.torch import save

    data = save({name: value.contiguous() for name, value in tensors.items()}, metadata=dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def read(
    path: Path, kind: str, error: type[PriorCodecError], advice: str = "get it again"
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a file whose metadata says that it is of the wanted kind.

    Args:
        path: The file.
        kind: Wanted value of the metadata's "kind", e.g. "priorcodec adapter 2".
        error: Raised for anything else.
        advice: What to do about an unreadable file.

    Returns:
        Metadata and tensors.

    Raises:
        error: Missing, unreadable, a pickle, or of another kind.
    """
    stem = kind.rpartition(" ")[0]
    thing = stem.rpartition(" ")[2]
    with _opened(path, "pt", error, f"a readable {thing} file", advice) as file:
        metadata = dict(file.metadata() or {})
        got = metadata.get("kind", "something else")
        if got != kind:
            versions = got.rpartition(" ")[0] == stem
            what = f"update priorcodec or get another {thing}" if versions else "give a file of that kind"
            raise error(f"{path} is {printable(got, 60)!r}, wanted {kind!r}: {what}")
        return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def is_finite(values: Tensor) -> bool:
    """Whether no value is infinite or NaN. For half precision ten times faster than `torch.isfinite` alone."""
    if values.numel() and values.is_floating_point() and values.element_size() > 1:
        return all(math.isfinite(float(end)) for end in values.aminmax())
    if values.is_floating_point():  # float8 has no test of its own
        values = values.float()
    return bool(values.isfinite().all())


def describe(path: Path, error: type[PriorCodecError]) -> tuple[dict[str, str], dict[str, int]]:
    """Read the header alone: metadata, and the number of values by tensor name. Raises `error`: missing or unreadable."""
    with _opened(path, "numpy", error, "a readable safetensors file", "get it again") as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return dict(file.metadata() or {}), sizes


def _opened(path: Path, framework: str, error: type[PriorCodecError], wanted: str, advice: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little") if path.is_file() else 0
        if MAX_HEADER < size <= path.stat().st_size:
            raise OSError(f"a header of {size} bytes, wanted at most {MAX_HEADER}")
        return safe_open(path, framework=framework)
    except (OSError, ValueError, SafetensorError) as reason:  # ValueError: a NUL in the path
        why = "a pickle, which can run any code" if _is_pickle(path) else printable(reason)
        raise error(f"{path} is not {wanted} ({why}): {advice}") from reason


def _is_pickle(path: Path) -> bool:
    """torch.save writes a zip or, long ago, a bare pickle of protocol 2 to 5."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(2)
    return start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
