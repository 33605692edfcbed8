"""Options and helpers that several commands share: paths and "-", settings, verbosity, and how an outcome is printed."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from priorcodec.core.errors import ConfigError

if TYPE_CHECKING:
    from priorcodec.batch.jobs import Outcome
    from priorcodec.config import DecodeConfig


def plugin_output_to_stderr() -> contextlib.AbstractContextManager[Any]:
    """Redirect what plugins print to standard error, so that standard output belongs to the command."""
    from priorcodec.core.io import atomic

    return atomic.prints_to_stderr()


def log_details(verbose: bool) -> bool:
    """Log debug messages and tracebacks too, if `verbose`."""
    if verbose:
        from priorcodec.batch import logs

        logs.log_to_stderr(logging.DEBUG)
    return verbose


Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", callback=log_details, help="Log details and tracebacks to standard error.")
]
Inputs = Annotated[list[str], typer.Argument(metavar="FILES...", help="Files and folders; - is standard input.")]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", help="A file for one input, a folder for several, - for standard output."),
]
Device = Annotated[
    str | None, typer.Option(help="Device: auto (default; CUDA if available, else CPU), cpu, cuda, cuda:1, mps or xpu.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing outputs.")]
Skip = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Skip outputs that are already up to date; any other existing output is an error.",
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", metavar="N", min=1, help="Number of processes that share the files.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels", help="Refuse images with more pixels than this, padded to multiples of 64; default 67108864."
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        help="Tile side in pixels for large images, a multiple of 64 from 128 up; 0 for no tiles; default: by memory."
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Layers to decode: semantic, latent, residual, separated by commas; later parts of the file may be missing."
    ),
]
NoPlugin = Annotated[list[str] | None, typer.Option("--no-plugin", help="Do not load this plugin; may be repeated.")]


def paths(ctx: typer.Context, words: Sequence[str]) -> list[Path]:
    """Words of the command line -> paths, `STREAM` for "-".

    Raises:
        ConfigError: A `key=value` word that is no existing file; the line names the option to use.
    """
    from priorcodec.batch.jobs import STREAM

    found = []
    for word in words:
        if word in ("-", "/dev/stdin", "/dev/fd/0"):
            found.append(STREAM)
        elif "=" in word and not os.path.lexists(word):
            raise ConfigError(_no_setting(ctx, word))
        else:
            found.append(path(word))
    return found


def output_path(output: str | None, inputs: Sequence[Path]) -> Path | None:
    """-o as a path, `STREAM` for "-" and for standard input without -o. Raises ConfigError: a terminal."""
    from priorcodec.batch.jobs import STREAM

    if output in ("-", "/dev/stdout", "/dev/fd/1") or (output is None and list(inputs) == [STREAM]):
        if sys.stdout is None:
            raise ConfigError("standard output is closed, wanted a pipe or a file: give -o FILE")
        if sys.stdout.isatty():
            raise ConfigError("the output is binary and standard output is a terminal: give -o FILE, or pipe it")
        return STREAM
    return None if output is None else path(output)


def decode_config(file: Path | None = None, **options: Any) -> DecodeConfig:
    """Options -> settings; an option that is None is not set.

    Args:
        file: YAML file whose settings come before the options.
        options: Values by name of the setting.

    Raises:
        ConfigError: One line for every wrong setting.
    """
    from priorcodec import config

    words = [f"{key}={value}" for key, value in options.items() if value is not None]
    return config.decode_config(words, file=file)


def finish(outcome: Outcome, line: str, *, as_json: bool, to_stderr: bool = False) -> None:
    """Print the rows and the failures; exit status 1 if there are any.

    Args:
        outcome: Of a run.
        line: Format of one row.
        as_json: Whether to print all rows as one JSON list instead.
        to_stderr: Whether standard output holds an image already.
    """
    from priorcodec.batch.jobs import LINE
    from priorcodec.core.io.names import printable

    if as_json:
        typer.echo(json.dumps(outcome.rows, indent=2), err=to_stderr)
    else:
        for row in outcome.rows:
            text = "{input} -> {output}: up to date" if row.get("skipped") else line
            typer.echo(printable(text.format(**row), LINE), err=to_stderr)
    failures(outcome)


def failures(outcome: Outcome) -> None:
    """Print what failed to standard error. Raises typer.Exit with status 1 if anything did."""
    if outcome.failures:
        total = len(outcome.failures) + len(outcome.rows)
        typer.echo(f"{len(outcome.failures)} of {total} files failed:", err=True)
        for _, reason in outcome.failures:
            typer.echo(f"  {reason}", err=True)
        raise typer.Exit(1)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, to_stderr: bool = False) -> None:
    """Print rows as a table with columns wide enough that nothing is cut, even in a pipe."""
    from priorcodec.evaluation.table import Table

    cells = [[str(row[column]) for column in columns] for row in rows]
    typer.echo(Table(heads=list(columns), rows=cells, texts=len(columns)).text(), nl=False, err=to_stderr)


def path(word: str) -> Path:
    """A path; absolute for a file called "-", which would mean a stream. Raises ConfigError: an empty word.

    An empty word is an unset variable of a shell far more often than the current folder, which `Path("")` is.
    """
    if not word:
        raise ConfigError("got an empty path, wanted a file or a folder; the current folder is .")
    return Path(word) if str(Path(word)) != "-" else Path(word).absolute()


def _no_setting(ctx: typer.Context, word: str) -> str:
    key, _, value = word.partition("=")
    option = "--" + key.removeprefix("backbone.").replace("_", "-")
    known = [name for parameter in ctx.command.params for name in parameter.opts if name.startswith("--")]
    if option in known:
        return f"got {word}, which is not a file; settings are given as options: {option} {value}"
    siblings = getattr(ctx.parent.command, "commands", {}) if ctx.parent else {}
    others = [name for name, other in siblings.items() if any(option in p.opts for p in other.params)]
    near = difflib.get_close_matches(option, known, n=1)
    hint = f"it is one of {' and '.join(others)}" if others else f"nearest: {near[0]}" if near else "see --help"
    return f"got {word}, which is not a file, and {ctx.info_name} has no option {option}; {hint}"
