"""`priorcodec export`: a session's networks as ONNX graphs, and the exact tables, for readers without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from priorcodec.cli import options
from priorcodec.core.errors import ConfigError


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into; created if it does not exist.")],
    backbone: Annotated[str | None, typer.Option(help="Backbone to export; default nano_pixel.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of the backbone: folder, file or OWNER/REPO@COMMIT.")
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Adapter: a known name, a .safetensors file or the folder of one, or OWNER/REPO/FILE.safetensors@COMMIT."
        ),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Side in pixels of tiles of large images; default 1024, with --fixed 512.")
    ] = None,
    fixed: Annotated[
        bool,
        typer.Option("--fixed", help="Export the decoder for squares of that side only, which small runtimes need."),
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Round the decoder's large weights to half precision.")] = False,
    decoder: Annotated[bool, typer.Option("--decoder/--no-decoder", help="Whether to export the backbone.")] = True,
    no_plugin: options.NoPlugin = None,
    force: options.Force = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write ONNX graphs of encoder, previews and backbone, the exact tables, and manifest.json.

    Needs the packages of `pip install 'priorcodec[export]'`.
    """
    from priorcodec.core.io import atomic
    from priorcodec.export.manifest import NAMES
    from priorcodec.export.manifest import export as write
    from priorcodec.registry import open_registry
    from priorcodec.session import open_session

    for name in NAMES:
        atomic.check_output(folder / name, replace=force)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, wanted a folder to write into")
    settings: dict[str, Any] = {"backbone": backbone, "weights": weights, "adapter": adapter}
    given = {key: value for key, value in settings.items() if value is not None}
    if not decoder and (given or fixed or half or tile is not None):
        raise ConfigError("got --no-decoder and options of the decoder, wanted one or the other")

    def written(name: str) -> None:
        if not as_json:
            typer.echo(folder / name)

    with options.plugin_output_to_stderr():
        registry = open_registry(disabled=no_plugin or ())
        session = open_session(**given, device="cpu", dtype="float32", registry=registry)
    manifest = write(
        session, folder, tile=tile, fixed=fixed, half=half, decoder=decoder, replace=force, progress=written
    )
    if as_json:
        typer.echo(json.dumps([manifest], indent=2))
