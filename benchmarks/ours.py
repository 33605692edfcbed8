"""PriorCodec as a Coder, through `priorcodec.open_session` like any user's program.

`preview` is the auxiliary decoder; any other name is a backbone, with decoder settings after a colon as on the command
line, and `encoder=FILE` for another encoder: `nano_unet:adapter=FILE,steps=4`. All decoders read the same files, apart from
those with `renorm=written`, whose files carry the statistics that they need.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import coders
import numpy as np
import resultfile

from priorcodec import open_session
from priorcodec.core.errors import PriorCodecError
from priorcodec.core.image import io as image_io


def coder(codec: str) -> coders.Coder:
    """Name as given on the command line -> Coder; without its weights the Coder has `missing` set."""
    name, _, words = codec.partition(":")
    shown = ", ".join(resultfile.scrub(word) for word in words.split(",") if word)

    def encode(pixels: np.ndarray, setting: str, _: str) -> bytes:
        return session(codec).encode(pixels, float(setting), statistics=_statistics(codec))

    def decode(path: Path) -> np.ndarray:
        data = path.read_bytes()
        image = session(codec).preview(data) if name == "preview" else session(codec).decode(data)
        return image_io.from_any(image).pixels

    made = coders.Coder(
        name="-".join([name, *shown.replace(".../", "").split(", ")]).strip("-"),
        title=f"PriorCodec {name}" + (f" ({shown})" if shown else ""),
        suffix=".gic", settings=(), encode=encode, decode=decode, identity="", ours=True,
    )  # fmt: skip
    try:
        identity, writer, levels = _identity(codec)
    except PriorCodecError as error:
        return replace(made, missing=resultfile.scrub(f"{codec}: {' '.join(str(error).split())}"))
    return replace(made, identity=identity, writer=writer, settings=tuple(map(str, range(levels))))


@cache
def session(codec: str) -> Any:
    """One session per process and codec."""
    name, _, words = codec.partition(":")
    settings = [word for word in words.split(",") if word]
    encoder = [Path(word.removeprefix("encoder=")) for word in settings if word.startswith("encoder=")]
    overrides = [word for word in settings if not word.startswith("encoder=")]
    backbone: Any = {} if name == "preview" else {"backbone": name}
    return open_session(**backbone, overrides=overrides, encoder=encoder[0] if encoder else None)


def _statistics(codec: str) -> bool:
    """Whether its files carry the image's statistics: then their bytes count."""
    return session(codec).config.renorm == "written"


@cache
def _identity(codec: str) -> tuple[str, str, int]:
    """What decodes (encoder, backbone's pinned weights, adapter file, settings), what encodes, number of qualities."""
    made, (name, _, words) = session(codec), codec.partition(":")
    writer = f"encoder {made.codec.id:08x}" + (" statistics" if _statistics(codec) else "")
    if name == "preview":
        return f"{writer} preview", writer, made.codec.levels
    spec = made.registry.spec(name)
    adapter = hashlib.sha256(made.registry.adapter(spec, made.config.adapter).read_bytes()).hexdigest()
    _ = made.adapter  # loads everything, so that what is missing is said before the run and not in its middle
    return f"{writer} {name} {spec.revision} {adapter} {words}", writer, made.codec.levels
