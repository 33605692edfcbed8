"""Settings as structured OmegaConf: defaults, then a YAML file, then `key=value` words; all mistakes told at once.

backbone=sdxl backbone.weights=/models/sdxl dtype=bfloat16   (after Hydra's groups and torchtune's config validation)
    \\-> configs/sdxl.yaml if we ship one, for any other backbone its name alone
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from priorcodec.backbones.spec import MAX_STEPS
from priorcodec.core.container import MAX_PIXELS
from priorcodec.core.errors import ConfigError

Schema = TypeVar("Schema")


class Dtype(enum.StrEnum):
    """Of the denoiser; auto: bfloat16 on a GPU, float32 on the CPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Renorm(enum.StrEnum):
    """Whose statistics the result is moved to: nobody's, those the adapter predicts, those written in the file."""

    off = "off"
    predicted = "predicted"
    written = "written"


@dataclass
class BackboneConfig:
    """name: as `priorcodec backbones` lists them; weights: folder, file or Hub id of a mirror, null for the source."""

    name: str = "nano_unet"
    weights: str | None = None


@dataclass
class DecodeConfig:
    """How a file becomes an image.

    adapter: name or path; device: auto, cpu, cuda, cuda:1, ...; low_memory: the autoencoder works in slices and tiles;
    steps: calls of the denoiser, 1 to 8; renorm: see `core.renorm`; strength: how far from the preview to the backbone's
    image, 0 to 1; max_pixels: larger images and files of such are refused;
    tile: side in pixels of the parts that larger images are worked on in, null for what the memory allows, 0 for never.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    adapter: str = "default"
    device: str = "auto"
    dtype: Dtype = Dtype.auto
    low_memory: bool = False
    steps: int = 1
    renorm: Renorm = Renorm.off
    strength: float = 1.0
    max_pixels: int = MAX_PIXELS
    tile: int | None = None

    def problems(self) -> list[str]:
        """What the types alone cannot tell."""
        found = []
        if self.device.split(":")[0] not in ("auto", "cpu", "cuda", "mps", "xpu"):
            found.append(f"device={self.device}: wanted auto, cpu, cuda, mps or xpu")
        if not 1 <= self.steps <= MAX_STEPS:
            found.append(f"steps={self.steps}: wanted 1 to {MAX_STEPS}")
        if not 0 <= self.strength <= 1:
            found.append(f"strength={self.strength:g}: wanted 0 (the preview) to 1 (all of the backbone's image)")
        if self.max_pixels < 1:
            found.append(f"max_pixels={self.max_pixels}: wanted 1 or more")
        if self.tile and (self.tile < 128 or self.tile % 64):
            found.append(f"tile={self.tile}: wanted a multiple of 64 from 128 up, 0 for never, or null")
        return found


def decode_config(overrides: Sequence[str], *, backbones: Collection[str] | None = None) -> DecodeConfig:
    """Words of the command line -> settings; `config=FILE` is a YAML file of one's own instead of the backbone's.

    backbones: the known names, to tell a misspelt one together with the rest.
    Raises:
        ConfigError: one line for every wrong word.
    """
    own = [Path(w.removeprefix("config=")) for w in overrides if w.startswith("config=")]
    overrides = [w for w in overrides if not w.startswith("config=")]
    named = [w.partition("=")[2] for w in overrides if w.partition("=")[0] in ("backbone", "backbone.name")]
    name = named[-1] if named else None
    words = ["backbone.name" + w.removeprefix("backbone") if w.startswith("backbone=") else w for w in overrides]
    problems = []
    if backbones is not None and name is not None and name not in backbones:
        near = difflib.get_close_matches(name, backbones, n=3, cutoff=0.5) or sorted(backbones)
        problems.append(f"backbone={name}: no such backbone; nearest: {', '.join(near)}")
    problems += [f"config={path}: no such file" for path in own if not path.is_file()]
    file = next((path for path in own if path.is_file()), shipped(name) if name else None)
    return compose(DecodeConfig, words, file=file, problems=problems)


def shipped(name: str) -> Path | None:
    """Our own YAML file for a backbone, if there is one."""
    path = Path(str(resources.files("priorcodec"))) / "configs" / f"{name}.yaml"
    return path if path.is_file() else None


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
