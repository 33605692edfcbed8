"""`priorcodec backbones | adapters list|show|push | plugins | check`. Only `show` and `check` load torch."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from priorcodec.cli import options
from priorcodec.core.errors import AdapterError, BackboneError, ConfigError, WeightsError
from priorcodec.core.io.names import printable

if TYPE_CHECKING:
    from priorcodec.backbones.spec import AdapterSource
    from priorcodec.registry import Registry

adapters = typer.Typer(help="List, show or publish adapters.", no_args_is_help=True)


def backbones(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Backbone to show in full.")] = None,
    no_plugin: options.NoPlugin = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """List available backbones.

    Shows size, latent space, prediction type, license, whether the weights are on this machine, and known adapters.
    """
    from priorcodec.registry import open_registry

    with options.plugin_output_to_stderr():
        rows = backbone_rows(open_registry(disabled=no_plugin or ()), name)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif name:
        typer.echo("\n".join(f"{key:<12} {value}" for key, value in rows[0].items()))
    else:
        columns = ("name", "parameters", "latent", "prediction", "license", "weights", "adapters")
        options.table(rows, columns)


@adapters.command(name="list")
def list_adapters(
    no_plugin: options.NoPlugin = None, as_json: options.Json = False, verbose: options.Verbose = False
) -> None:
    """List the adapters that plugins provide for each backbone. Nothing is downloaded."""
    from priorcodec.registry import open_registry

    with options.plugin_output_to_stderr():
        rows = adapter_rows(open_registry(disabled=no_plugin or ()))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        options.table(rows, ("backbone", "name", "size", "encoder", "file", "sha256", "revision", "location"))


@adapters.command()
def show(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A .safetensors file, the folder that holds it, or OWNER/REPO/FILE.safetensors@COMMIT."
        ),
    ],
    no_plugin: options.NoPlugin = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Describe an adapter file.

    Its parts, the backbone and encoder that it was trained for, and whether it can be used here.
    """
    from priorcodec.registry import open_registry

    with options.plugin_output_to_stderr():
        row = explain(open_registry(disabled=no_plugin or ()), file)
    typer.echo(json.dumps(row, indent=2) if as_json else lines(row))


@adapters.command()
def push(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An adapter's .safetensors file, or the folder that holds it.")
    ],
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO", help="Repository, created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    branch: Annotated[str, typer.Option(help="Branch to push to.")] = "main",
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Upload an adapter and its model card to the Hugging Face Hub.

    Prints the location to decode with, pinned to the new commit.
    """
    from dataclasses import asdict

    from priorcodec.adapters import card, hub
    from priorcodec.registry import adapter_sources

    file = hub.in_folder(file)
    with tempfile.TemporaryDirectory() as folder:
        page = card.publishable(file, Path(folder))
        source = adapter_sources.push(file, page, repository, private=private, branch=branch)
    if as_json:
        typer.echo(json.dumps(asdict(source), indent=2))
        return
    typer.echo(f"commit   {source.revision}\nsha256   {source.sha256}")
    typer.echo(f"decode   --adapter {source.location}@{source.revision}")
    typer.echo("plugin   " + repr(source).replace("'", '"'))


def plugins(
    no_plugin: options.NoPlugin = None, as_json: options.Json = False, verbose: options.Verbose = False
) -> None:
    """List plugins, what they provide, and why any failed to load."""
    from priorcodec.registry import open_registry

    with options.plugin_output_to_stderr():
        registry = open_registry(disabled=no_plugin or ())
        registry.probe()
        rows = plugin_rows(registry)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        options.table(rows, ("name", "origin", "version", "backbones", "error"))


def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A backbone, as `priorcodec backbones` lists them.")],
    tier: Annotated[int, typer.Option(min=0, max=2, help="0: plain data, 1: the tiny model, 2: the real weights.")] = 1,
    weights: Annotated[str | None, typer.Option(help="For tier 2: folder, file or OWNER/REPO@COMMIT.")] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK=REASON", help="A check that is expected to fail, and why; may be repeated."),
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="Print the traceback of every exception.")] = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Run the plugin conformance checks on a backbone.

    Exit status 1 if a check fails.
    """
    from priorcodec import testing

    if weights is not None and tier < 2:
        raise ConfigError(f"got --weights for tier {tier}, which loads none: add --tier 2")
    pairs = [word.partition("=") for word in expect or ()]
    if bare := [word for word, equals, reason in pairs if not (equals and reason)]:
        raise ConfigError(f"got --expect {bare[0]}, wanted CHECK=REASON: say why it fails")
    with options.plugin_output_to_stderr():
        results = testing.check_backbone(
            name, tier=tier, weights=weights, expected_failures={check: reason for check, _, reason in pairs}
        )
    text, good = testing.format_results(name, results, as_json=as_json, tracebacks=traceback)
    typer.echo(text)
    if not good:
        raise typer.Exit(1)


def backbone_rows(registry: Registry, name: str | None = None) -> list[dict[str, Any]]:
    """One row per backbone, or one full description of `name`. Raises BackboneError: no such backbone."""
    if name is None:
        return [_summary(registry, spec) for spec in registry.specs().values()]
    spec = registry.spec(name)
    more = {
        "summary": spec.summary,
        "source": spec.source,
        "revision": spec.revision,
        "size": f"trained at {spec.size} pixels",
        "condition": _condition(spec),
        "lora": [f"{rule.modules} modules of {rule.pattern} at rank {rule.rank}" for rule in spec.lora],
        "fusion": [f"{site.module}: {site.channels} channels, stride {site.stride}" for site in spec.fusion],
    }
    return [_summary(registry, spec) | more]


def plugin_rows(registry: Registry) -> list[dict[str, Any]]:
    """One row per plugin found, failed ones with their reason."""
    return [
        {
            "name": record.name,
            "origin": record.origin,
            "version": record.version,
            "backbones": ", ".join(record.backbones),
            "error": record.error or "",
        }
        for record in registry.plugins()
    ]


def adapter_rows(registry: Registry) -> list[dict[str, Any]]:
    """One row per adapter that plugins know, for every backbone. Nothing is downloaded."""
    return [_adapter(spec.name, source) for spec in registry.specs().values() for source in registry.adapters(spec)]


def explain(registry: Registry, given: str) -> dict[str, Any]:
    """Everything about one adapter file.

    Args:
        registry: Whose backbones it may fit.
        given: A file, the folder that holds it, or OWNER/REPO/FILE.safetensors@COMMIT on the Hub, which is fetched.

    Raises:
        AdapterError: It cannot be had, or is not an adapter of this version.
    """
    from priorcodec.adapters import hub
    from priorcodec.registry import adapter_sources

    given = str(hub.in_folder(Path(given))) if os.path.isdir(given) else given
    path = adapter_sources.fetch(adapter_sources.source(given))  # before torch: a wrong name is reported at once

    from priorcodec.adapters import card
    from priorcodec.adapters import file as adapter_file
    from priorcodec.adapters.adapter import Adapter

    file = adapter_file.read(path)
    parts = card.parts(file)
    total = sum(parts.values())
    share, fits = "unknown", "yes"
    try:
        spec = registry.spec(file.metadata.get("backbone", ""))
        share = f"{total / spec.parameters:.2%}"
        Adapter.from_pretrained(path, spec=spec)
        if file.tiny:
            share = "of a dry run"
            fits = "a dry run's: decodes through the backbone's tiny random model, which shows that the parts fit"
    except (AdapterError, BackboneError) as error:
        fits = f"no: {error}"
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": adapter_sources.sha256(path),
        "dtype": ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in file.tensors.values()})),
        "metadata": {key: value for key, value in sorted(file.metadata.items()) if key != "config"},
        "settings": vars(file.config),
        "parameters": parts | {"all": total},
        "share": share,
        "fits": fits,
    }


def lines(row: dict[str, Any], indent: str = "") -> str:
    """One line per entry; the entries of a mapping below it, indented."""
    width = max(map(len, row))
    text = []
    for key, value in row.items():
        if isinstance(value, dict):
            text += [f"{indent}{key}", lines(value, indent + "  ")]
        else:
            shown = f"{value:,}" if type(value) is int else printable(value, 1000)
            text.append(f"{indent}{printable(key):<{width}}  {shown}")
    return "\n".join(text)


def _summary(registry: Registry, spec: Any) -> dict[str, Any]:
    try:
        weights = "here" if registry.local_weights(spec) else "missing"
    except WeightsError as error:
        weights = f"refused: {error}"
    return {
        "name": spec.name,
        "parameters": f"{spec.parameters / 1e6:.2f}M",
        "latent": f"{spec.latent.channels} channels, stride {spec.latent.stride}",
        "prediction": str(spec.prediction),
        "license": spec.license,
        "weights": weights,
        "adapters": ", ".join(source.name for source in registry.adapters(spec)) or "none",
    }


def _condition(spec: Any) -> str:
    """What the denoiser is conditioned on, in words."""
    widths = [width for width in (spec.token_dim, *spec.more_token_dims) if width]
    parts = [f"tokens of width {' and '.join(map(str, widths))}"] if widths else []
    parts += [f"pooled vector of width {spec.pooled_dim}"] if spec.pooled_dim else []
    parts += list(spec.image_inputs)
    parts += [f"features of width {spec.feature_dim}"] if spec.feature_dim else []
    return ", ".join(parts) or "none"


def _adapter(backbone: str, source: AdapterSource) -> dict[str, Any]:
    from priorcodec.core.io import safetensors
    from priorcodec.registry import adapter_sources

    encoder, size = "", ""
    try:
        path = adapter_sources.local_path(source)
        here = "here" if path else "missing"
        if path:
            metadata = safetensors.describe(path, AdapterError)[0]
            encoder, owner = metadata.get("encoder", ""), metadata.get("backbone", "")
            if owner != backbone:
                here = f"refused: it is for backbone {owner or 'unknown'}"
            size = f"{path.stat().st_size / 2**20:.2f} MiB"
    except AdapterError as error:
        here = f"refused: {error}"
    return {
        "backbone": backbone,
        "name": source.name,
        "size": size,
        "encoder": encoder,
        "file": here,
        "sha256": source.sha256[:12] or "not pinned",
        "revision": source.revision[:12],
        "location": source.location,
    }
