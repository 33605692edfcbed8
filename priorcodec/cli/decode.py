"""`priorcodec decode | preview | info`: .gic files -> images or descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from priorcodec.cli import options
from priorcodec.core.errors import ConfigError

if TYPE_CHECKING:
    from priorcodec.batch.jobs import Job
    from priorcodec.batch.tasks import Decode


def decode(
    ctx: typer.Context,
    files: options.Inputs,
    output: options.Output = None,
    backbone: Annotated[
        str | None, typer.Option(help="Backbone that decodes; `priorcodec backbones` lists them; default nano_pixel.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of the backbone: folder, file or OWNER/REPO@COMMIT; default: its own source."),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Adapter: a known name, a .safetensors file or the folder of one, or OWNER/REPO/FILE.safetensors@COMMIT."
        ),
    ] = None,
    device: options.Device = None,
    dtype: Annotated[
        str | None, typer.Option(help="Precision of the denoiser: auto, float32, bfloat16 or float16; default auto.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, 1 to 8; default 1.")] = None,
    renorm: Annotated[
        str | None,
        typer.Option(
            help="Match color and contrast: none, predicted (by the adapter) or written (in the file); default none."
        ),
    ] = None,
    blend: Annotated[
        float | None, typer.Option(help="Blend between the preview (0) and the backbone's image (1); default 1.")
    ] = None,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Run the backbone's autoencoder in slices and tiles.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file with settings; options take precedence.")
    ] = None,
    layers: options.Layers = None,
    no_plugin: options.NoPlugin = None,
    max_pixels: options.MaxPixels = None,
    tile: options.Tile = None,
    skip_existing: options.Skip = False,
    workers: options.Workers = 1,
    force: options.Force = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Decode .gic files to images through a diffusion backbone.

    --skip-existing keeps a PNG whose metadata says that it was decoded from this file with these settings, weights and adapter.
    """
    from priorcodec.batch.tasks import Decode

    disabled = tuple(no_plugin or ())
    settings = options.decode_config(
        config,
        backbone=backbone,
        weights=weights,
        adapter=adapter,
        device=device,
        dtype=dtype,
        steps=steps,
        renorm=renorm,
        blend=blend,
        low_memory=low_memory or None,
        max_pixels=max_pixels,
        tile=tile,
        layers=layers,
    )
    task = Decode(config=settings, no_plugin=disabled, skip=skip_existing, force=force)
    _decode(ctx, files, output, task, workers=workers, as_json=as_json)


def preview(
    ctx: typer.Context,
    files: options.Inputs,
    output: options.Output = None,
    device: options.Device = None,
    max_pixels: options.MaxPixels = None,
    tile: options.Tile = None,
    layers: options.Layers = None,
    perceptual: Annotated[
        bool,
        typer.Option(
            "--perceptual",
            help="Use the decoder trained with a perceptual loss instead of the one trained for MSE.",
        ),
    ] = False,
    skip_existing: options.Skip = False,
    workers: options.Workers = 1,
    force: options.Force = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Decode .gic files without a diffusion model.

    Fast: one of the encoder's two auxiliary decoders turns the file into an image.
    """
    from priorcodec.batch.tasks import Decode

    config = options.decode_config(device=device, max_pixels=max_pixels, tile=tile, layers=layers)
    task = Decode(config=config, preview=True, perceptual=perceptual, skip=skip_existing, force=force)
    _decode(ctx, files, output, task, workers=workers, as_json=as_json)


def info(
    ctx: typer.Context,
    files: options.Inputs,
    max_pixels: options.MaxPixels = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Describe .gic files: size, quality, encoder and segments."""
    from priorcodec.batch import jobs, runner
    from priorcodec.core import container
    from priorcodec.core.io.names import printable

    limit = container.MAX_PIXELS if max_pixels is None else max_pixels

    def describe(job: Job) -> dict[str, Any]:
        return {"file": str(job.source), **container.describe(job.read(), max_pixels=limit)}

    inputs = options.paths(ctx, files)
    sources = runner.expand(inputs, (container.SUFFIX,))
    if not sources:
        raise ConfigError(f"nothing to do in {', '.join(map(str, inputs))}: wanted files ending in {container.SUFFIX}")
    todo = [jobs.Job(source=source, target=jobs.STREAM) for source in sources]
    outcome = jobs.outcome(todo, {i: jobs.run_job(job, describe) for i, job in enumerate(todo)})
    rows = [{key: row[key] for key in row if key not in ("input", "output", "seconds")} for row in outcome.rows]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            typer.echo("\n".join(f"{key:<16} {printable(value, jobs.LINE)}" for key, value in row.items()))
    options.failures(outcome)


def _decode(
    ctx: typer.Context, files: list[str], output: str | None, task: Decode, *, workers: int, as_json: bool
) -> None:
    from priorcodec.batch import runner
    from priorcodec.batch.jobs import STREAM
    from priorcodec.core import container
    from priorcodec.core.image import io as image_io

    inputs = options.paths(ctx, files)
    target = options.output_path(output, inputs)
    jobs = runner.list_jobs(
        inputs,
        target,
        suffixes=(container.SUFFIX,),
        ending=task.ending,
        outputs=[suffix for suffix in image_io.SAVE if suffix],
        force=task.force or task.skip,
    )
    with options.plugin_output_to_stderr():
        outcome = runner.run_jobs(jobs, task, workers=workers, label="decoding")
    options.finish(outcome, "{input} -> {output}: {width}x{height}", as_json=as_json, to_stderr=target == STREAM)
