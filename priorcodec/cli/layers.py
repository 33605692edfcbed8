"""`priorcodec regions | edit`: what the semantic layers of a file say, and changing one region."""

from __future__ import annotations

import colorsys
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from priorcodec.batch.jobs import STREAM, as_error
from priorcodec.cli import options
from priorcodec.core.errors import ConfigError, PriorCodecError
from priorcodec.core.io import atomic
from priorcodec.core.io.names import printable
from priorcodec.core.io.reading import read_file, standard_input

if TYPE_CHECKING:
    from priorcodec.core.layers.semantic import Regions


def regions(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .gic file; - is standard input.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Write an image of the regions, in the label colors.")
    ] = None,
    max_pixels: options.MaxPixels = None,
    force: options.Force = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """List the regions of a .gic file, their areas and texture values. No image is decoded and no network is run.

    A file without a structure layer gets its regions from its latent: the classes of a stored codebook.
    """
    from priorcodec.core import container, shipped
    from priorcodec.core.exact_reader import ExactReader
    from priorcodec.core.layers.semantic import SemanticTables

    limit = container.MAX_PIXELS if max_pixels is None else max_pixels
    target = None if output is None else _target(output, [file], force=force)
    reader, tables = ExactReader.load(shipped.ENCODER), SemanticTables()
    with _about(file):
        content = reader.unpack(_read(file), max_pixels=limit)
        found = tables.read(content, reader)
    if target is not None:
        _draw(found, content.height, content.width, target, replace=force)
    rows, aside = table(found), target == STREAM
    if as_json:
        typer.echo(json.dumps(rows, indent=2), err=aside)
        return
    origin = "derived from the latent" if found.classes is not None else "written"
    typer.echo(f"{found.count} regions, {origin}", err=aside)
    for row in rows:
        row["values"] = " ".join(f"{value:.1f}" for value in row["values"])
    columns = [key for key in rows[0] if any(row[key] not in ("", None) for row in rows)]
    options.table(rows, columns, to_stderr=aside)


def table(found: Regions) -> list[dict[str, Any]]:
    """A row for every region: number, label color, area in percent, class, mean color, texture values in units."""
    from priorcodec.core.entropy.exact import ONE
    from priorcodec.core.layers import texture

    areas = texture.areas(found.labels)
    colors = None if found.values is None else found.colors()
    return [
        {
            "region": i,
            "label": _hex(palette(i)),
            "area_percent": round(100 * float(area) / found.labels.size, 1),
            "class": "" if found.classes is None else int(found.classes[i]),
            "mean_color": "" if colors is None else _hex(colors[i].tolist()),
            "values": [] if found.values is None else [round(float(v) / ONE, 2) for v in found.values[i]],
        }
        for i, area in enumerate(areas)
    ]


def edit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .gic file; - is standard input.")],
    output: Annotated[str, typer.Option("-o", "--output", help="The edited file; - for standard output.")],
    region: Annotated[int, typer.Option(help="Number of the region; `priorcodec regions` lists them.")],
    texture_from: Annotated[
        Path | None, typer.Option("--texture-from", help="A .gic file to take values from.")
    ] = None,
    from_region: Annotated[
        int | None, typer.Option("--from-region", help="Region of that file to take; default: its largest.")
    ] = None,
    recolor: Annotated[str | None, typer.Option(help="New mean color: a name or #rrggbb.")] = None,
    drop_latent: Annotated[
        bool, typer.Option("--drop-latent", help="Write the semantic layers only, without a latent.")
    ] = False,
    device: options.Device = None,
    max_pixels: options.MaxPixels = None,
    force: options.Force = False,
    verbose: options.Verbose = False,
) -> None:
    """Give one region of a file another texture or color. Works on the file alone, without the original image.

    Without a latent, only the values of the region change. With one, the region is changed in the preview and its part of the
    latent is coded again at the same quality; the rest of the latent is coded again from its decoded values. Statistics and
    residual are dropped: they describe the image as it was.
    """
    from priorcodec.core.container import SUFFIX
    from priorcodec.core.image.color import parse_color
    from priorcodec.core.layers import editing
    from priorcodec.session import Session

    if (texture_from is None) == (recolor is None):
        got = "neither --texture-from nor --recolor" if recolor is None else "both --texture-from and --recolor"
        raise ConfigError(f"got {got}, wanted one of them")
    if file == "-" and str(texture_from) == "-":
        raise ConfigError("got standard input (-) twice, wanted it for the file or for --texture-from")
    if from_region is not None and texture_from is None:
        raise ConfigError("got --from-region without --texture-from")
    target = _target(output, [file, *([] if texture_from is None else [texture_from])], force=force)
    if target != STREAM and target.suffix.lower() != SUFFIX:
        raise ConfigError(f"cannot write {target}: wanted a name ending in {SUFFIX}")
    color = None if recolor is None else parse_color(recolor, "color")
    session = Session(options.decode_config(device=device, max_pixels=max_pixels))
    codec, limit, values = session.codec, session.config.max_pixels, None
    if texture_from is not None:
        with _about(texture_from):
            values = editing.values_of(codec, _read(str(texture_from)), from_region, max_pixels=limit)
    change = editing.Edit(region=region, values=values, color=color)
    with _about(file):
        encoded = editing.edit(codec, _read(file), change, keep_latent=not drop_latent, max_pixels=limit)
    atomic.make_folder(target.parent)
    atomic.write(target, encoded.data, replace=force)
    latent = "none" if encoded.container.string is None else "coded again"
    line = f"{file} -> {output}: {len(encoded.data)} bytes, region {region} edited, latent: {latent}"
    typer.echo(printable(line, 1000), err=target == STREAM)


def palette(label: int) -> tuple[int, int, int]:
    """The color that stands for a region: hues a golden angle apart, two brightnesses."""
    r, g, b = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 0.95 - 0.3 * (label % 2))
    return round(255 * r), round(255 * g), round(255 * b)


def _draw(found: Regions, height: int, width: int, output: Path, *, replace: bool) -> None:
    import numpy as np

    from priorcodec.core.image import io as image_io
    from priorcodec.core.layers.structure import CELL

    colors = np.array([palette(i) for i in range(found.count)], np.uint8)
    pixels = colors[found.labels].repeat(CELL, 0).repeat(CELL, 1)[:height, :width]
    atomic.make_folder(output.parent)
    image_io.save(np.ascontiguousarray(pixels), output, replace=replace)


def _read(file: str) -> bytes:
    return read_file(standard_input() if file == "-" else options.path(file))


def _target(output: str, inputs: Sequence[str | Path], *, force: bool) -> Path:
    """Where the output goes. Raises ConfigError: see `atomic.check_output`; a terminal."""
    target = options.output_path(output, [])
    assert target is not None  # for the type checker: it was given
    atomic.check_output(target, inputs, replace=force)
    return target


@contextlib.contextmanager
def _about(file: str | Path) -> Iterator[None]:
    """Errors inside name the file."""
    try:
        yield
    except PriorCodecError as error:
        raise as_error(error, Path(file)) from error


def _hex(color: tuple[int, int, int] | list[int]) -> str:
    return "#" + "".join(f"{value:02x}" for value in color)
