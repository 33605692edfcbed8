"""PriorCodec as a Coder, through `priorcodec.open_session` like any user's program.

`preview` and `perceptual` are the auxiliary decoders; any other name is a backbone, with decoder settings after a colon as of
`open_session`: `nano_pixel:adapter=FILE,steps=4`, `preview:encoder=FILE`. All decoders read the same files, apart from
those with `renorm=written`, whose files carry the statistics that they need, with `residual=LEVEL`, which have that layer, and
with `refine=STEPS`, which were refined.

Three settings are for measuring alone, to see what the diffusion model and the parts of an adapter bring. `denoiser=none`
takes the adapter's latent as it is, before the denoiser's call; `start=FACTOR` multiplies the time at which the denoiser is
called; `without=PART` leaves out a part of the adapter (one of `OUTPUTS`), whose other parts were trained with it.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import types
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import coders
import numpy as np
import resultfile
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from priorcodec import open_session
from priorcodec.core import container, latent_refinement
from priorcodec.core.errors import ConfigError, PriorCodecError
from priorcodec.core.layers import residual as residual_layer

PREVIEWS = ("preview", "perceptual")
ABLATIONS = ("denoiser", "start")
OUTPUTS = {
    "lora": r"lora\..*\.lora_B\..*",
    "fusion": r"own\.fusion\.\d+\.out\.weight",
    "tokens": r"own\.tokens\.out\.weight",
    "bridge": r"own\.bridge\.tail\..*",
    "refiner": r"own\.refiner\.tail\..*",
    "noise": r"own\.refiner\.noise\.weight",
}
"""Part of an adapter -> its last tensors in an adapter's file: with zeros there, it adds nothing."""
_FOLDER = tempfile.TemporaryDirectory()
RESIDUAL, REFINE = "residual", "refine"  # settings of the encoder
NUMBERS = {"steps": int, "blend": float, "tile": int}
"""Settings of `open_session` that are no text."""


def coder(codec: str) -> coders.Coder:
    """Name as given on the command line -> Coder; without its weights the Coder has `missing` set."""
    name, _, words = codec.partition(":")
    shown = ", ".join(resultfile.scrub(word) for word in words.split(",") if word)

    def encode(pixels: np.ndarray, setting: str, _: str) -> bytes:
        return bytes(session(codec).encode(pixels, float(setting), **_request(codec)))

    def decode(path: Path) -> np.ndarray:
        made = session(codec)
        if name in PREVIEWS:
            return made.preview(path, output="np", perceptual=name == "perceptual")
        return made.decode(path, output="np")

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
    name = codec.partition(":")[0]
    settings: dict[str, Any] = _words(codec)
    for key in (RESIDUAL, REFINE):
        settings.pop(key, None)
    ablations = {key: settings.pop(key) for key in ABLATIONS if key in settings}
    for key, kind in NUMBERS.items():
        if key in settings:
            settings[key] = kind(settings[key])
    part = settings.pop("without", None)
    try:
        made = open_session(**({} if name in PREVIEWS else {"backbone": name}), **settings)
        if part is not None:
            path = made.registry.adapter(made.registry.spec(name), made.config.adapter)
            settings["adapter"] = str(without(part, path))
            made = open_session(name, **settings)
    except TypeError as error:
        raise ConfigError(f"{codec}: {error}; settings are those of open_session") from error
    for what, value in ablations.items():
        _ablate(made.adapter, what, value)
    return made


@cache
def without(part: str, path: Path) -> Path:
    """An adapter's file without one part, kept as long as this process."""
    if part not in OUTPUTS:
        raise ConfigError(f"no setting without={part}; wanted one of {', '.join(OUTPUTS)}")
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in tensors:
        if re.fullmatch(OUTPUTS[part], name):
            tensors[name] = torch.zeros_like(tensors[name])
    target = Path(_FOLDER.name, f"{part}-{path.name}")
    save_file(tensors, target, metadata)
    return target


def _ablate(adapter: Any, what: str, value: str) -> None:
    """Change one adapter object, for measuring only."""
    forward, start_time = adapter.forward, adapter.start_time
    if (what, value) == ("denoiser", "none"):

        def without(_: Any, *args: Any, **kwargs: Any) -> Any:
            estimate = forward(*args, **kwargs)
            return replace(estimate, z=estimate.z_hat)

        adapter.forward = types.MethodType(without, adapter)
    elif what == "start":
        factor = float(value)
        adapter.start_time = lambda quality: (factor * start_time(quality)).clamp(max=999)
    else:
        raise ConfigError(f"no setting {what}={value}; for measuring there are denoiser=none and start=FACTOR")


def encode_at_most(codec: str, pixels: np.ndarray, max_bytes: int) -> bytes:
    """The largest file of at most this many bytes."""
    return bytes(session(codec).encode(pixels, max_bytes=max_bytes, **_request(codec)))


def _request(codec: str) -> dict[str, Any]:
    """What the encoder is asked for besides a quality or size."""
    return {"statistics": _statistics(codec), "residual": _residual(codec), "refine": _refine(codec)}


def _statistics(codec: str) -> bool:
    """Whether its files carry the image's statistics: then their bytes count."""
    return session(codec).config.renorm == "written"


def _residual(codec: str) -> float | None:
    level = _words(codec).get(RESIDUAL)
    return None if level is None else float(level)


def _refine(codec: str) -> int:
    return int(_words(codec).get(REFINE, 0))


def _words(codec: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in codec.partition(":")[2].split(",") if word)


@cache
def _identity(codec: str) -> tuple[str, str, int]:
    """What decodes (encoder, backbone's pinned weights, adapter file, settings), what encodes, number of qualities."""
    made, (name, _, words) = session(codec), codec.partition(":")
    writer = f"format {container.VERSION} encoder {made.codec.id:08x}" + (" statistics" if _statistics(codec) else "")
    if (level := _residual(codec)) is not None:
        tables = hashlib.sha256(made.codec.reader.residual_file.read_bytes()).hexdigest()
        writer += f" {residual_layer.settings(level)} threshold {residual_layer.THRESHOLD} {tables}"
    if steps := _refine(codec):
        writer += f" refine {steps} at {latent_refinement.RATE:g}"
    if name in PREVIEWS:
        return f"{writer} {name}", writer, made.codec.levels
    spec = made.registry.spec(name)
    adapter = hashlib.sha256(made.registry.adapter(spec, made.config.adapter).read_bytes()).hexdigest()
    _ = made.adapter  # loads everything, so that what is missing is said before the run and not in its middle
    return f"{writer} {name} {spec.revision} {adapter} {words}", writer, made.codec.levels
