"""Settings as structured OmegaConf: defaults, then a YAML file, then `key=value` words; all mistakes told at once.

backbone=sdxl backbone.weights=/models/sdxl dtype=bfloat16   (after Hydra's groups and torchtune's config validation)
    \\-> configs/sdxl.yaml if we ship one, for any other backbone its name alone
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from priorcodec.backbones.spec import MAX_STEPS
from priorcodec.core.container import MAX_PIXELS
from priorcodec.core.errors import ConfigError
from priorcodec.core.io.safetensors import shown

Schema = TypeVar("Schema")
MAX_FILE = 2**20  # bytes of a settings file


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
    schema: type[Schema],
    overrides: Sequence[str] = (),
    *,
    file: Path | None = None,
    preset: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
) -> Schema:
    """Merge the defaults of the dataclass `schema`, then `preset`, then `file`, then `key=value` words; later wins.

    Values are plain text, `null` or a list. Interpolations such as `${oc.env:HOME}` are refused, never resolved: a settings
    file may come from anywhere. A field with `parse` in its metadata turns its text into a value itself.

    Args:
        schema: dataclass with defaults; a method `problems() -> list[str]` may check what types cannot.
        overrides: `key=value` words.
        file: YAML file with the same keys, nested or dotted.
        preset: other defaults than the schema's, by dotted key.
        problems: lines found elsewhere, reported together with ours.

    Raises:
        ConfigError: one line for every unknown key, impossible value, word without "=" or unreadable file.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    settings, found, known = OmegaConf.structured(schema), list(problems), dict(_keys(schema))
    pairs = [(f"{key}={value}", key, value) for key, value in (preset or {}).items()]
    for origin, key, value in [*pairs, *_pairs(file, overrides, known, found)]:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2, cutoff=0.5) or known
            found.append(f"{origin}: no setting {shown(key)!r}; nearest: {', '.join(near)}")
            continue
        if not _is_plain(value):
            found.append(
                f"{origin}: wanted a plain value or a list of them; interpolations (${{...}}) are not resolved"
            )
            continue
        parse = known[key].get("parse", _value)
        try:
            OmegaConf.update(settings, key, parse(value) if isinstance(value, str) else value)
        except OmegaConfBaseException as exc:
            found.append(f"{origin}: {str(exc).splitlines()[0]}")
    result = OmegaConf.to_object(settings)
    assert isinstance(result, schema)  # for the type checker: OmegaConf says Any
    found += getattr(result, "problems", list)()
    if found:
        raise ConfigError("\n".join([f"{len(found)} wrong settings:", *found]) if len(found) > 1 else found[0])
    return result


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a settings file; every scalar stays the text it is (YAML's `off` must not become False before the schema sees it).

    Raises:
        ConfigError: no such file, a folder, not UTF-8, not YAML, or no mapping; one line.
    """
    import yaml

    try:
        if path.stat().st_size > MAX_FILE:
            raise ConfigError(f"config={path}: larger than {MAX_FILE} bytes, wanted a settings file")
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except IsADirectoryError as error:
        raise ConfigError(f"config={path}: a folder, wanted a YAML file") from error
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(f"config={path}: {reason}, wanted a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        reason = shown(getattr(error, "problem", None) or type(error).__name__, 80)
        raise ConfigError(f"config={path}: not readable as YAML{where} ({reason})") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        kind = "a list" if isinstance(content, list) else "a single value"
        raise ConfigError(f"config={path}: holds {kind}, wanted lines of `key: value`")
    return content


def split_list(text: str) -> list[str]:
    """`a, "b,c"` or `[a, "b,c"]` -> ["a", "b,c"]: quotation marks keep a comma inside an item."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return [
        (quoted or plain).strip()
        for quoted, plain in re.findall(r'"([^"]*)"|([^,]+)', text)
        if (quoted or plain).strip()
    ]


def _pairs(
    file: Path | None, overrides: Sequence[str], known: Collection[str], found: list[str]
) -> Iterator[tuple[str, str, Any]]:
    if file is not None:
        try:
            content = read_yaml(file)
        except ConfigError as error:
            found.append(str(error))
            content = {}
        for key, value in _flatten(content, {name.rpartition(".")[0] for name in known}):
            text = shown(value if isinstance(value, str) else "[...]", 200)
            yield f"{file.name}: {shown(key)}={text}", key, value
    for word in overrides:
        key, equals, value = word.partition("=")
        if equals:
            yield shown(word, 300), key, value
        else:
            found.append(f"{shown(word, 300)}: wanted key=value")


def _is_plain(value: Any) -> bool:
    """Text, or a list of texts, in which OmegaConf would find nothing to resolve."""
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(part, str) and "${" not in part and part != "???" for part in parts)


def _value(value: str) -> Any:
    """A word's value: null, [a list, in brackets], or the text for the schema to read."""
    if value.startswith("[") and value.endswith("]"):
        return split_list(value)
    return None if value == "null" else value


def _flatten(content: Mapping[str, Any], groups: Collection[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Only known groups are opened: a file whose aliases repeat themselves ends at the first unknown key."""
    for key, value in content.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" in groups:
            yield from _flatten(value, groups, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Dotted name and metadata of every setting."""
    types = get_type_hints(schema)
    for f in fields(schema):  # type: ignore[arg-type]
        if is_dataclass(types[f.name]):
            yield from _keys(types[f.name], f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", f.metadata
