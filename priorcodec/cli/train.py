"""`priorcodec train adapter | encoder`: settings are `key=value` words, as in a recipe's YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from priorcodec.cli import options
from priorcodec.core.errors import ConfigError

app = typer.Typer(help="Train an adapter for a backbone, or a new encoder.", no_args_is_help=True)
Settings = Annotated[
    list[str], typer.Argument(metavar="KEY=VALUE...", help="Settings, or config=FILE; docs/train.md lists all.")
]
AS_WORDS = {"ignore_unknown_options": True}  # so that `--steps` reaches us and its line can say how to write it


@app.command(context_settings=AS_WORDS)
def adapter(settings: Settings, verbose: options.Verbose = False) -> None:
    """Train the adapter of one backbone: backbone=NAME data=FOLDER,SHARD.tar run=FOLDER. Resumes a run found in that folder."""
    from priorcodec.training.adapter import train_adapter

    _finish(train_adapter(_words(settings)))


@app.command(context_settings=AS_WORDS)
def encoder(settings: Settings, verbose: options.Verbose = False) -> None:
    """Train a new encoder: data=FOLDER,SHARD.tar run=FOLDER. No other encoder reads its files. Resumes a run in that folder."""
    from priorcodec.training.encoder import train_encoder

    _finish(train_encoder(_words(settings)))


def _words(settings: Sequence[str]) -> list[str]:
    for word in settings:
        if word.startswith("-"):
            raise ConfigError(f"got {word}, wanted key=value words: {word.lstrip('-').replace('-', '_') or 'key'}=...")
    return list(settings)


def _finish(result: Path | None) -> None:
    if result is not None:  # only the first process writes
        typer.echo(f"{result}: {result.stat().st_size} bytes")
