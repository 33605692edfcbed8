"""`priorcodec train adapter | encoder`: settings are `key=value` words, as in a recipe's YAML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from priorcodec.cli import options
from priorcodec.core.errors import ConfigError, TrainingError, out_of_memory

app = typer.Typer(help="Train an adapter or a new encoder.", no_args_is_help=True)
Settings = Annotated[
    list[str], typer.Argument(metavar="KEY=VALUE...", help="Settings, or config=FILE; --settings lists all.")
]


def _list(schema: str) -> Callable[[bool], None]:
    def callback(wanted: bool) -> None:
        if wanted:
            from priorcodec.training import settings, words

            typer.echo(words.help_text(getattr(settings, schema)), nl=False)
            raise typer.Exit

    return callback


def _listing(schema: str) -> typer.models.OptionInfo:
    return typer.Option(
        "--settings", is_eager=True, callback=_list(schema), help="List all settings with their defaults and meaning."
    )


AdapterListing = Annotated[bool, _listing("AdapterRunConfig")]
EncoderListing = Annotated[bool, _listing("EncoderRunConfig")]
AS_WORDS = {"ignore_unknown_options": True}  # so that `--steps` reaches us and its line can say how to write it


@app.command(context_settings=AS_WORDS)
def adapter(settings: Settings, listing: AdapterListing = False, verbose: options.Verbose = False) -> None:
    """Train the adapter of one backbone: backbone=NAME data=FOLDER,SHARD.tar run=FOLDER. Resumes a run found in that folder."""
    from priorcodec.training.adapter import train_adapter

    _finish(train_adapter, settings)


@app.command(context_settings=AS_WORDS)
def encoder(settings: Settings, listing: EncoderListing = False, verbose: options.Verbose = False) -> None:
    """Train a new encoder: data=FOLDER,SHARD.tar run=FOLDER. No other encoder reads its files. Resumes a run in that folder."""
    from priorcodec.training.encoder import train_encoder

    _finish(train_encoder, settings)


def _words(settings: Sequence[str]) -> list[str]:
    for word in settings:
        if word.startswith("-"):
            raise ConfigError(f"got {word}, wanted key=value words: {word.lstrip('-').replace('-', '_') or 'key'}=...")
    return list(settings)


def _finish(train: Callable[[list[str]], Path | None], settings: Sequence[str]) -> None:

    try:
        with options.plugin_output_to_stderr():
            result = train(_words(settings))
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            "not enough memory: set accumulate= to take the batch in parts, or a smaller batch=, a smaller crop= or "
            "gradient_checkpointing=true"
        ) from error
    if result is not None:  # only the first process writes
        typer.echo(f"{result}: {result.stat().st_size} bytes")
