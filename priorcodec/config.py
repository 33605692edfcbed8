"""Settings as structured OmegaConf: defaults, then a YAML file, then `key=value` words; all mistakes are reported at once.

Validation after torchtune's `config.validate`; the only module that uses OmegaConf.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from priorcodec.backbones.spec import MAX_STEPS
from priorcodec.core.container import MAX_PIXELS
from priorcodec.core.errors import ConfigError

Schema = TypeVar("Schema")
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


class Dtype(enum.StrEnum):
    """Floating-point type of the denoiser; auto: float32 on the CPU, otherwise what the backbone's spec recommends."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Renorm(enum.StrEnum):
    """Which statistics the decoded image is moved to: none, those the adapter predicts, or those written in the file."""

    none = "none"
    predicted = "predicted"
    written = "written"


@dataclass
class BackboneConfig:
    """Backbone of a training run.

    Attributes:
        name: As `priorcodec backbones` lists them.
        weights: Folder, file or Hub id of a mirror; None for the spec's own source.
    """

    name: str = "nano_unet"
    weights: str | None = None


@dataclass
class DecodeConfig:
    """Settings of a session: how a file becomes an image.

    Attributes:
        backbone: Name of the backbone, as `priorcodec backbones` lists them.
        weights: Folder, file or Hub id of its weights; None for the spec's own source.
        adapter: Name of a known adapter, a .safetensors file, or OWNER/REPO/FILE.safetensors@COMMIT on the Hub.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
        dtype: Of the denoiser; auto: float32 on the CPU, otherwise what the backbone's spec recommends.
        steps: Denoiser calls, 1 to `MAX_STEPS`.
        renorm: Which statistics the image is moved to; see `core.statistics`.
        blend: Share of the backbone's image, 0 (the preview) to 1.
        low_memory: Let the autoencoder work in slices and tiles; None for what the backbone's spec recommends.
        max_pixels: Images and files with more pixels are refused.
        tile: Side in pixels of the tiles that larger images are split into; None for what memory allows, 0 for no tiles.
    """

    backbone: str = "nano_unet"
    weights: str | None = None
    adapter: str = "default"
    device: str = "auto"
    dtype: Dtype = Dtype.auto
    steps: int = 1
    renorm: Renorm = Renorm.none
    blend: float = 1.0
    low_memory: bool | None = None
    max_pixels: int = MAX_PIXELS
    tile: int | None = None

    def problems(self) -> list[str]:
        """One line for every value that has the right type but is impossible."""
        found = []
        if self.device.split(":")[0] not in DEVICES:
            found.append(f"device={self.device}: wanted {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")
        if not 1 <= self.steps <= MAX_STEPS:
            found.append(f"steps={self.steps}: wanted 1 to {MAX_STEPS}")
        if not 0 <= self.blend <= 1:
            found.append(f"blend={self.blend:g}: wanted 0 (the preview) to 1 (the backbone's image)")
        if self.max_pixels < 1:
            found.append(f"max_pixels={self.max_pixels}: wanted 1 or more")
        if self.tile and (self.tile < 128 or self.tile % 64):
            found.append(f"tile={self.tile}: wanted a multiple of 64 from 128 up, 0 for no tiles, or null")
        return found


def decode_config(
    overrides: Sequence[str] = (), *, file: Path | None = None, backbones: Collection[str] | None = None
) -> DecodeConfig:
    """Defaults, then a YAML file, then `key=value` words -> settings of a session.

    Args:
        overrides: Words such as "backbone=sdxl" or "steps=4"; "config=FILE" stands for `file`.
        file: YAML file with the fields of `DecodeConfig`.
        backbones: Known names, to report a misspelled one together with the other mistakes.

    Raises:
        ConfigError: One line for every mistake.
    """
    for word in overrides:
        if word.startswith("config="):
            file = Path(word.removeprefix("config="))
    words = [word for word in overrides if not word.startswith("config=")]
    problems = []
    name = next((word.partition("=")[2] for word in reversed(words) if word.startswith("backbone=")), None)
    if backbones is not None and name is not None and name not in backbones:
        near = difflib.get_close_matches(name, backbones, n=3, cutoff=0.5) or sorted(backbones)
        problems.append(f"backbone={name}: no such backbone; nearest: {', '.join(near)}")
    if file is not None and not file.is_file():
        problems.append(f"config={file}: no such file")
        file = None
    return compose(DecodeConfig, words, file=file, problems=problems)


def compose(
    schema: type[Schema], overrides: Sequence[str] = (), *, file: Path | None = None, problems: Sequence[str] = ()
) -> Schema:
    """Defaults of the dataclass `schema`, then `file`, then `key=value` words; later wins.

    problems: found elsewhere, to be told together with ours. A method `schema.problems()` may add more.
    Raises:
        ConfigError: one line for every unknown key, impossible value or word without "=".
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    settings, found, known = OmegaConf.structured(schema), list(problems), list(_keys(schema))
    for origin, key, value in _pairs(file, overrides, found):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2, cutoff=0.5) or known
            found.append(f"{origin}: no setting {key!r}; nearest: {', '.join(near)}")
            continue
        try:
            OmegaConf.update(settings, key, _value(value))
        except OmegaConfBaseException as exc:
            found.append(f"{origin}: {str(exc).splitlines()[0]}")
    result = OmegaConf.to_object(settings)
    assert isinstance(result, schema)  # for the type checker: OmegaConf says Any
    found += getattr(result, "problems", list)()
    if found:
        raise ConfigError("\n".join([f"{len(found)} wrong settings:", *found]) if len(found) > 1 else found[0])
    return result


def _pairs(file: Path | None, overrides: Sequence[str], found: list[str]) -> Iterator[tuple[str, str, Any]]:
    if file is not None:
        import yaml

        # BaseLoader leaves every scalar a string: YAML's `off` must not become False before the schema sees it.
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
        yield from ((f"{file.name}: {key}={value}", key, value) for key, value in _flatten(content))
    for word in overrides:
        key, equals, value = word.partition("=")
        if equals:
            yield word, key, value
        else:
            found.append(f"{word}: wanted key=value")


def _value(value: Any) -> Any:
    """A word's value: null, [a list, in brackets], or the text for the schema to read."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return [part.strip() for part in value[1:-1].split(",") if part.strip()]
    return None if value == "null" else value


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _keys(schema: type, prefix: str = "") -> Iterator[str]:
    types = get_type_hints(schema)
    for f in fields(schema):  # type: ignore[arg-type]
        if is_dataclass(types[f.name]):
            yield from _keys(types[f.name], f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}"
