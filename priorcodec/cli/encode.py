"""`priorcodec encode`: images -> .gic files."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from priorcodec.cli import options
from priorcodec.core.errors import ConfigError


class RefineMetric(enum.StrEnum):
    """What latent refinement improves."""

    psnr = "psnr"
    gmsd = "gmsd"


def encode(
    ctx: typer.Context,
    files: options.Inputs,
    output: options.Output = None,
    quality: Annotated[
        float | None, typer.Option("-q", "--quality", help="0 (smallest file) to 11; fractions allowed; default 6.")
    ] = None,
    bpp: Annotated[
        float | None, typer.Option(help="Highest rate in bits per pixel; the best quality that fits is used.")
    ] = None,
    target_bytes: Annotated[
        int | None,
        typer.Option("--target-bytes", help="Largest file size in bytes; the best quality that fits is used."),
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="Color to put behind transparent areas: white, #rrggbb, ...")
    ] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Write 8 bytes of image statistics for `decode --renorm written`.")
    ] = False,
    refine: Annotated[
        int, typer.Option(help="Latent refinement steps, 0 to 10000: slower encoding, better quality per byte.")
    ] = 0,
    refine_metric: Annotated[
        RefineMetric, typer.Option("--refine-metric", help="Metric that --refine optimizes.")
    ] = RefineMetric.psnr,
    device: options.Device = None,
    max_pixels: options.MaxPixels = None,
    tile: options.Tile = None,
    skip_existing: options.Skip = False,
    workers: options.Workers = 1,
    force: options.Force = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Encode images to .gic files. No diffusion model is loaded.

    --skip-existing keeps an existing file if it is readable, was written by this encoder at this quality (or meets the target
    size), contains statistics exactly when --statistics is given, has the image's dimensions, and is not older than the image.
    It does not compare pixels or check whether the file was refined.
    """
    from priorcodec.batch import runner
    from priorcodec.batch.jobs import STREAM
    from priorcodec.batch.tasks import Encode
    from priorcodec.core import container, rate_control

    inputs = options.paths(ctx, files)
    target = options.output_path(output, inputs)
    sizes = {"--quality": quality, "--bpp": bpp, "--target-bytes": target_bytes}
    given = [name for name, value in sizes.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"got {' and '.join(given)}, wanted at most one of {', '.join(sizes)}")
    if bpp is not None or target_bytes is not None:
        rate_control.target_bytes(target_bytes, bpp, 1, 1)
    if refine_metric is not RefineMetric.psnr and not refine:
        raise ConfigError(f"got --refine-metric {refine_metric} without --refine: give a number of steps")
    config = options.decode_config(device=device, max_pixels=max_pixels, tile=tile)
    jobs = runner.list_jobs(
        inputs,
        target,
        suffixes=runner.IMAGES,
        ending=container.SUFFIX,
        outputs=(container.SUFFIX,),
        force=force or skip_existing,
    )
    task = Encode(
        config=config,
        quality=6.0 if quality is None else quality,
        target_bytes=target_bytes,
        bpp=bpp,
        background=background,
        statistics=statistics,
        refine=refine,
        refine_metric=refine_metric.value,
        show_steps=len(jobs) == 1,
        skip=skip_existing,
        force=force,
    )
    outcome = runner.run_jobs(jobs, task, workers=workers, label="encoding")
    line = "{input} -> {output}: {bytes} bytes, {bpp:.4f} bpp, quality {quality:g}"
    options.finish(outcome, line, as_json=as_json, to_stderr=target == STREAM)
