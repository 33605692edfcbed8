"""`priorcodec eval | report`: score files against their references, and make a page of benchmark results."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from priorcodec.cli import options


class Format(StrEnum):
    """What `eval` prints."""

    table = "table"
    csv = "csv"
    json = "json"


def evaluate(
    references: Annotated[Path, typer.Argument(metavar="REFERENCES", help="Original image or folder of them.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Decoded images or coded files, or folders of them.")
    ],
    metrics: Annotated[
        str,
        typer.Option(
            help="Names separated by commas, such as psnr,msssim,lite1_lpips; default: all that can run here."
        ),
    ] = "",
    backbone: Annotated[str, typer.Option(help="Backbone that decodes .gic files; `preview` uses none.")] = "preview",
    coded: Annotated[
        Path | None,
        typer.Option(help="Coded file whose size gives the rate (it is not read), or a folder of them."),
    ] = None,
    style: Annotated[Format, typer.Option("--format", help="How the scores are printed.")] = Format.table,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write instead of printing.")] = None,
    force: options.Force = False,
    verbose: options.Verbose = False,
) -> None:
    """Score files against their references.

    Rate is bits per pixel of the whole file.
    """
    from priorcodec.batch.jobs import Outcome, as_error
    from priorcodec.core.errors import ConfigError
    from priorcodec.core.io import atomic
    from priorcodec.evaluation import evaluate
    from priorcodec.evaluation import metrics as scores

    wanted = [name.strip() for name in metrics.split(",")] if metrics else list(scores.METRICS)
    for name in wanted:
        scores.image_metric(name)
    decoder = None if backbone == "preview" else backbone
    if coded is not None and not coded.exists():
        raise ConfigError(f"{coded} does not exist; give --coded a file or a folder")
    known = evaluate.expand([references], evaluate.IMAGES)
    every = evaluate.expand(files, evaluate.INPUTS)
    if output is not None:
        files_beside = [] if coded is None else [coded] if coded.is_file() else sorted(coded.iterdir())
        atomic.check_output(output, [*known, *every, *files_beside], replace=force)
        if output.is_dir():
            raise ConfigError(f"{output} is a folder, wanted a file to write")
        atomic.make_folder(output.parent)
    names, missing = scores.available(wanted)
    for line in missing:
        typer.echo(f"left out: {line}", err=True)
    outcome = Outcome()
    with options.plugin_output_to_stderr():
        results = list(evaluate.evaluate(known, every, names, backbone=decoder, coded=coded))
    for file, result in results:
        if not isinstance(result, Exception):
            outcome.rows.append(result)
        elif len(known) == len(every) == 1:
            raise as_error(result, file) from result
        else:
            outcome.failures.append((file, str(as_error(result, file))))
    outcome.rows.sort(key=lambda row: (row["image"], row["file"]))
    if outcome.rows:
        text = evaluate.render(outcome.rows, style)
        if output is None:
            typer.echo(text, nl=False)
        else:
            atomic.write(output, text.encode("utf-8", "surrogateescape"), replace=force)
    options.failures(outcome)


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Result files of the benchmarks, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("report.html"),
    images: Annotated[Path | None, typer.Option(help="Folder that `benchmarks/rd.py --keep` wrote.")] = None,
    force: options.Force = False,
    verbose: options.Verbose = False,
) -> None:
    """Make one HTML page of benchmark results.

    Self-contained, with plots, tables, and an image slider.
    """
    from priorcodec.core.errors import ConfigError
    from priorcodec.core.io import atomic
    from priorcodec.evaluation import report as page

    if images is not None and not images.is_dir():
        raise ConfigError(f"{images} is not a folder; give --images the folder that `benchmarks/rd.py --keep` wrote")
    atomic.check_output(output, page.files(results), replace=force)
    atomic.make_folder(output.parent)
    page.build(results, output, images=images, replace=force)
    if output.is_file() and not atomic.is_stdout(output):
        typer.echo(f"{output}: {output.stat().st_size} bytes")
