"""Settings in OmegaConf: defaults, then a YAML file, then `key=value` words. All mistakes are reported at once.

Validation after torchtune's `config.validate`; the only module that uses OmegaConf.
"""

from __future__ import annotations

import difflib
import enum
import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from priorcodec.backbones.spec import MAX_STEPS, BackboneSpec
from priorcodec.core.container import LAYERS, MAX_PIXELS
from priorcodec.core.errors import ConfigError
from priorcodec.core.io.names import printable

Schema = TypeVar("Schema")
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
MAX_FILE = 2**20  # bytes of a settings file


class Dtype(enum.StrEnum):
    """Floating-point type of the denoiser; auto: float32 on the CPU, otherwise what the backbone's spec recommends."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"

    def on(self, device_type: str, spec: BackboneSpec) -> str:
        """Name of the type in torch, such as "float32"; device_type: cpu, cuda and so on."""
        if self is not Dtype.auto:
            return str(self)
        return "float32" if device_type == "cpu" else spec.gpu_dtype


class Renorm(enum.StrEnum):
    """Target of renormalization: none, the moments that the adapter predicts, or the image statistics in the file."""

    none = "none"
    predicted = "predicted"
    written = "written"


@dataclass
class DecodeConfig:
    """Settings of a session: how a file becomes an image.

    Attributes:
        backbone: Name of the backbone, as `priorcodec backbones` lists them.
        weights: Folder, file or OWNER/REPO@COMMIT of its weights; None for the spec's own source.
        adapter: Name of a known adapter, a .safetensors file or the folder of one, or OWNER/REPO/FILE.safetensors@COMMIT (Hub).
        device: auto, cpu, cuda, cuda:1, mps or xpu.
        dtype: Floating-point type of the denoiser; auto: float32 on the CPU, otherwise what the backbone's spec recommends.
        steps: Denoiser calls, 1 to `MAX_STEPS`.
        renorm: none, predicted (latent moments, from the adapter) or written (image statistics, from the file).
        blend: Share of the backbone's image, 0 (the preview) to 1.
        low_memory: Let the autoencoder work in slices and tiles; None for what the backbone's spec recommends.
        max_pixels: Images and files with more pixels are refused.
        tile: Side in pixels of the tiles that larger images are split into; None for what memory allows, 0 for no tiles.
        layers: Names of the layers to decode, separated by commas: semantic, latent, residual; None for all in the file.
    """

    backbone: str = "nano_pixel"
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
    layers: str | None = field(default=None, metadata={"joined": True})

    @property
    def layer_names(self) -> list[str] | None:
        """`layers` as a list."""
        return None if self.layers is None else [name.strip() for name in self.layers.split(",")]

    def problems(self) -> list[str]:
        """Describe every value that has the right type but is impossible, one line each."""
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
            found.append(f"tile={self.tile}: wanted a multiple of 64 from 128 up, or 0 for no tiles")
        if unknown := [name for name in self.layer_names or () if name not in LAYERS]:
            found.append(f"layers={self.layers}: no layer {printable(unknown[0], 60)!r}, wanted {', '.join(LAYERS)}")
        elif self.layers is not None and not {"semantic", "latent"}.intersection(self.layer_names or ()):
            found.append(f"layers={self.layers}: wanted semantic, latent or both, and residual only with latent")
        return found


def decode_config(overrides: Sequence[str] = (), *, file: Path | None = None) -> DecodeConfig:
    """Defaults, then a YAML file, then `key=value` words -> settings of a session.

    Args:
        overrides: Words such as "backbone=sdxl" or "steps=4"; "config=FILE" stands for `file`.
        file: YAML file with the fields of `DecodeConfig`.

    Raises:
        ConfigError: One line for every mistake.
    """
    for word in overrides:
        if word.startswith("config="):
            file = Path(word.removeprefix("config="))
    words = [word for word in overrides if not word.startswith("config=")]
    return compose(DecodeConfig, words, file=file)


def compose(
    schema: type[Schema],
    overrides: Sequence[str] = (),
    *,
    file: Path | None = None,
    preset: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
    short: Mapping[str, str] | None = None,
) -> Schema:
    """Merge the defaults of the dataclass `schema`, then `preset`, then `file`, then `key=value` words; later wins.

    Values are plain text, `null` or a list. Interpolations such as `${oc.env:HOME}` are refused, never resolved: a settings
    file may come from anywhere. A field with `parse` in its metadata turns its text into a value itself; one with `joined`
    takes a list as its parts, separated by commas.

    Args:
        schema: Dataclass with defaults; a method `problems() -> list[str]` may check what types cannot.
        overrides: `key=value` words.
        file: YAML file with the same keys, nested or dotted.
        preset: Other defaults than the schema's, by dotted key.
        problems: Mistakes found elsewhere, reported together with those found here.
        short: Other names of keys.

    Raises:
        ConfigError: One line for every unknown key, impossible value, word without "=" or unreadable file.
    """
    found, known = list(problems), dict(_keys(schema))
    pairs = [(f"{key}={value}", key, value) for key, value in (preset or {}).items()]
    pairs += [
        (origin, (short or {}).get(key, key), value) for origin, key, value in _pairs(file, overrides, known, found)
    ]
    result = _merged(schema, pairs, known, found) if pairs else schema()
    found += getattr(result, "problems", list)()
    if found:
        raise ConfigError("\n".join([f"{len(found)} invalid settings:", *found]) if len(found) > 1 else found[0])
    return result


def _merged(
    schema: type[Schema], pairs: Sequence[tuple[str, str, Any]], known: Mapping[str, Any], found: list[str]
) -> Schema:
    """The defaults of `schema` with every (words for a message, key, value) of `pairs`; mistakes go into `found`.

    Not called without pairs: importing OmegaConf takes 0.15 s.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    settings = OmegaConf.structured(schema)
    for origin, key, value in pairs:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2, cutoff=0.5) or known
            found.append(f"{origin}: no setting {printable(key, 60)!r}; nearest: {', '.join(near)}")
            continue
        if isinstance(value, Mapping):
            found.append(f"{origin}: wanted {_wanted(known[key]['type'])}, not settings of its own below it")
            continue
        if not _is_plain(value):
            found.append(
                f"{origin}: wanted a plain value or a list of them; interpolations (${{...}}) are not resolved"
            )
            continue
        parse = known[key].get("parse", _value)
        parsed = parse(value) if isinstance(value, str) else value
        if isinstance(parsed, list) and known[key].get("joined"):
            parsed = ",".join(parsed)
        try:
            OmegaConf.update(settings, key, parsed)
        except OmegaConfBaseException:
            found.append(f"{origin}: wanted {_wanted(known[key]['type'])}")
    result = OmegaConf.to_object(settings)
    assert isinstance(result, schema)  # for the type checker: OmegaConf says Any
    return result


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a settings file; every scalar stays the text it is (YAML's `off` must not become False before the schema sees it).

    Raises:
        ConfigError: No such file, a folder, not UTF-8, not YAML, or no mapping; one line.
    """
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)  # not by its size: a device has none and no end
        if len(data) > MAX_FILE:
            raise ConfigError(f"config={path}: larger than {MAX_FILE} bytes, wanted a settings file")
        loader = _texts_loader()(data.decode("utf-8-sig"))
        node = loader.get_single_node()
        _refuse_repeated_keys(path, node, set())
        content = None if node is None else loader.construct_document(node)
    except IsADirectoryError as error:
        raise ConfigError(f"config={path}: a folder, wanted a YAML file") from error
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(f"config={path}: {reason}, wanted a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        reason = printable(getattr(error, "problem", None) or type(error).__name__, 80)
        raise ConfigError(f"config={path}: not readable as YAML{where} ({reason})") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        kind = "a list" if isinstance(content, list) else "a single value"
        raise ConfigError(f"config={path}: holds {kind}, wanted lines of `key: value`")
    return content


@functools.cache
def _texts_loader() -> Any:
    """YAML's loader that keeps every scalar as its text; an unquoted ~ or nothing is null."""
    import yaml

    class Loader(yaml.BaseLoader):
        def construct_scalar(self, node: Any) -> Any:
            value = super().construct_scalar(node)
            return "null" if node.style is None and value in ("", "~") else value

    return Loader


def _refuse_repeated_keys(path: Path, node: Any, checked: set[int]) -> None:
    """Raises ConfigError: a setting is there twice, of which YAML's reader would silently take the last.

    Args:
        path: Of the file.
        node: A part of it.
        checked: `id` of each part seen so far: aliases can repeat one without bound.
    """
    if getattr(node, "id", "") != "mapping" or id(node) in checked:
        return
    checked.add(id(node))
    seen: set[str] = set()
    for key, value in node.value:
        if isinstance(key.value, str):
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"config={path}: line {line} sets {printable(key.value, 60)} again, wanted it once")
            seen.add(key.value)
        _refuse_repeated_keys(path, value, checked)


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
        for key, value in _flatten(read_yaml(file), {name.rpartition(".")[0] for name in known}):
            text = printable(value if isinstance(value, str) else "[...]", 200)
            yield f"{file.name}: {printable(key, 60)}={text}", key, value
    for word in overrides:
        key, equals, value = word.partition("=")
        if equals:
            yield printable(word), key, value
        else:
            found.append(f"{printable(word)}: wanted key=value")


def _is_plain(value: Any) -> bool:
    """Whether a value is text, or a list of texts, without interpolations for OmegaConf to resolve."""
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(part, str) and "${" not in part and part != "???" for part in parts)


def _value(value: str) -> Any:
    """A word's value: null, [a list, in brackets], or the text for the schema to read."""
    if value.startswith("[") and value.endswith("]"):
        return split_list(value)
    return None if value == "null" else value


def _flatten(content: Mapping[str, Any], groups: Collection[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys as dotted ones. Only known groups are opened, so recursive YAML aliases end at the first unknown key."""
    for key, value in content.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" in groups:
            yield from _flatten(value, groups, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Dotted name of every setting, with its metadata and its type."""
    types = get_type_hints(schema)
    for f in fields(schema):  # type: ignore[arg-type]
        if is_dataclass(types[f.name]):
            yield from _keys(types[f.name], f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", {**f.metadata, "type": types[f.name]}


def _wanted(kind: Any) -> str:
    """What a setting of a type takes, in words."""
    if get_origin(kind) is list:
        return "a list"
    if get_origin(kind) is tuple:
        return "a list of numbers in brackets, such as [1,2]"
    kind = next((part for part in get_args(kind) if part is not type(None)), kind)  # of an optional one
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(member.name for member in kind)
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")
