"""`key=value` words and settings files -> the settings of a training command; settings -> help text and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar, get_type_hints

from priorcodec.config import compose, read_yaml
from priorcodec.core.errors import ConfigError
from priorcodec.training.settings import TINY, AdapterRunConfig, EncoderRunConfig, RunConfig

Schema = TypeVar("Schema", bound=RunConfig)


def from_words(schema: type[Schema], words: Sequence[str], *, backbones: Sequence[str] = ()) -> Schema:
    """`config=FILE` and `key=value` words -> settings; `backbone` is short for `backbone.name`, in both.

    Args:
        schema: AdapterRunConfig or EncoderRunConfig.
        words: of the command line; they win over the file.
        backbones: known names; another one is an error.

    Raises:
        ConfigError: one line for every wrong word.
    """
    files = [Path(w.removeprefix("config=")) for w in words if w.startswith("config=")]
    words = [w for w in words if not w.startswith("config=")]
    problems = [f"config={files[0]}, config={files[-1]}: wanted one file"] if len(files) > 1 else []
    chosen = [w.partition("=")[2] for w in words if w.startswith(("backbone.name=", "backbone="))]
    if backbones and chosen and chosen[-1] not in backbones:
        problems.append(f"backbone={chosen[-1]}: no such backbone; known: {', '.join(sorted(backbones))}")
    file = files[-1] if files else None
    preset = TINY if schema is AdapterRunConfig and _tiny(words, file) else None
    short = {} if schema is EncoderRunConfig else {"backbone": "backbone.name"}
    return compose(schema, words, file=file, preset=preset, problems=problems, short=short)


def _tiny(words: Sequence[str], file: Path | None) -> bool:
    """Whether a dry run is asked for; mistakes are reported later, by `compose`."""
    given = [w.partition("=")[2] for w in words if w.startswith("tiny=")]
    if not given and file is not None:
        try:
            given = [str(read_yaml(file).get("tiny"))]
        except ConfigError:
            return False
    return bool(given) and given[-1].lower() in ("true", "yes", "on", "1")


def rows(schema: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, default and help text of every setting."""
    hints = get_type_hints(schema)
    for f in fields(schema):
        if is_dataclass(hints[f.name]):
            yield from rows(hints[f.name], f"{prefix}{f.name}.")  # type: ignore[arg-type]
        else:
            default = f.default_factory() if callable(f.default_factory) else f.default
            default = list(default) if isinstance(default, tuple) else default
            text = "" if default in (None, []) else str(default)
            yield f"{prefix}{f.name}", text.lower() if isinstance(default, bool) else text, f.metadata.get("help", "")


def table(schema: type, base: type | None = None) -> str:
    """The settings as a Markdown table; base: settings that are the same there are left out."""
    known = set(rows(base)) if base else set()
    lines = [f"| `{name}` | {f'`{default}`' if default else ''} | {text} |" for name, default, text in rows(schema)
             if (name, default, text) not in known]  # fmt: skip
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *lines]) + "\n"


def help_text(schema: type) -> str:
    """The settings as plain lines for a terminal."""
    return "\n".join(f"{name}={default}\n    {text}" for name, default, text in rows(schema)) + "\n"


if __name__ == "__main__":  # the tables of docs/train.md
    print(table(AdapterRunConfig), table(EncoderRunConfig, AdapterRunConfig), sep="\n")
