"""`priorcodec encode`: images -> .gic files."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from priorcodec.cli import options
from priorcodec.core.errors import ConfigError


class RefineMetric(enum.StrEnum):
    """Distortion that latent refinement minimizes."""

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
        float | None, typer.Option(help="Rate target in bits per pixel: the largest file within it is written.")
    ] = None,
    target_bytes: Annotated[
        int | None,
        typer.Option("--target-bytes", help="Size target in bytes: the largest file within it is written."),
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="Color to put behind transparent areas: white, #rrggbb, ...")
    ] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Write 8 bytes of image statistics for `decode --renorm written`.")
    ] = False,
    layers: Annotated[
        str,
        typer.Option(help="Layers to write: semantic, latent, residual, separated by commas."),
    ] = "latent",
    residual: Annotated[
        float | None,
        typer.Option(help="Add a residual layer, 0 (least) to 10 (all); `--layers latent,residual` alone means 10."),
    ] = None,
    roi: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,W,H", help="Write the residual layer for this rectangle only, in pixels; may be repeated."
        ),
    ] = None,
    refine: Annotated[
        int,
        typer.Option(
            metavar="STEPS",
            help="Latent refinement, 0 to 10000 steps: much slower, less error per byte; plain files look better.",
        ),
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
    size), contains statistics exactly when --statistics is given, has these layers and the image's dimensions, and is not older.
    It does not compare pixels or check whether the file was refined.
    """
    from priorcodec.batch import runner
    from priorcodec.batch.jobs import STREAM
    from priorcodec.batch.tasks import Encode
    from priorcodec.core import container, rate_control
    from priorcodec.core.entropy.tables import QUALITY_STEPS
    from priorcodec.core.layers.settings import layer_config

    inputs = options.paths(ctx, files)
    target = options.output_path(output, inputs)
    sizes = {"--quality": quality, "--bpp": bpp, "--target-bytes": target_bytes}
    given = [name for name, value in sizes.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"got {' and '.join(given)}, wanted at most one of {', '.join(sizes)}")
    if bpp is not None or target_bytes is not None:
        rate_control.check_target(target_bytes, bpp)
    levels = container.MAX_QUALITY / QUALITY_STEPS
    if quality is not None and not 0 <= quality <= levels:
        raise ConfigError(f"quality is {quality:g}, wanted a number from 0 to {levels:g}")
    if len(inputs) == 1 and inputs[0].suffix.lower() == container.SUFFIX and not inputs[0].is_dir():
        raise ConfigError(f"{inputs[0]} is a .gic file already, wanted an image; `priorcodec decode` makes one of it")
    if refine_metric is not RefineMetric.psnr and not refine:
        raise ConfigError(f"got --refine-metric {refine_metric} without --refine: give a number of steps")
    names, regions = tuple(name.strip() for name in layers.split(",")), tuple(_region(text) for text in roi or ())
    if "latent" not in names and given:
        raise ConfigError(
            f"got {given[0]} for files without a latent, whose size the image decides: add latent to --layers"
        )
    layer_config(names, residual, regions)  # a wrong request ends here
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
        quality=rate_control.DEFAULT_QUALITY if quality is None else quality,
        max_bytes=target_bytes,
        bpp=bpp,
        background=background,
        statistics=statistics,
        layers=names,
        residual=residual,
        roi=regions,
        refine=refine,
        refine_metric=refine_metric.value,
        show_steps=len(jobs) == 1,
        skip=skip_existing,
        force=force,
    )
    outcome = runner.run_jobs(jobs, task, workers=workers, label="encoding")
    line = "{input} -> {output}: {bytes} bytes, {bpp:.4f} bpp, quality {quality:g}"
    options.finish(outcome, line, as_json=as_json, to_stderr=target == STREAM)


def _region(text: str) -> tuple[int, int, int, int]:
    """X,Y,W,H. Raises ConfigError."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"got --roi {text}, wanted x,y,width,height in whole pixels") from error
    return x, y, width, height
