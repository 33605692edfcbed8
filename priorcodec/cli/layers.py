"""`priorcodec regions | edit`: what the semantic layers of a file say, and changing one region."""

from __future__ import annotations

import colorsys
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from priorcodec.cli import options
from priorcodec.core.errors import ConfigError
from priorcodec.core.io.reading import read_file

if TYPE_CHECKING:
    from priorcodec.core.layers.semantic import Regions


def regions(
    file: Annotated[str, typer.Argument(help="A .gic file; - is standard input.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write an image of the regions, in the label colors.")
    ] = None,
    max_pixels: options.MaxPixels = None,
    force: options.Force = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """List the regions of a .gic file, their areas and texture values. No image is decoded and no network is run.

    A file without a structure layer gets its regions from its latent: the classes of a stored codebook.
    """
    from priorcodec.core import container
    from priorcodec.core.exact_reader import ExactReader
    from priorcodec.core.layers.semantic import SHIPPED, SemanticTables

    limit = container.MAX_PIXELS if max_pixels is None else max_pixels
    _free(output, force=force)
    reader, tables = ExactReader.load(SHIPPED.with_name("encoder.safetensors")), SemanticTables()
    content = reader.unpack(_read(file), max_pixels=limit)
    found = tables.read(content, reader)
    if output is not None:
        _draw(found, content.height, content.width, output)
    rows = table(found)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    typer.echo(f"{found.count} regions, {'derived from the latent' if found.classes is not None else 'written'}")
    for row in rows:
        row["values"] = " ".join(f"{value:.1f}" for value in row["values"])
    columns = [key for key in rows[0] if any(row[key] not in ("", None) for row in rows)]
    options.table(rows, columns)


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
    file: Annotated[str, typer.Argument(help="A .gic file; - is standard input.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The edited file.")],
    region: Annotated[int, typer.Option(help="Number of the region; `priorcodec regions` lists them.")],
    texture_from: Annotated[
        Path | None, typer.Option("--texture-from", help="A .gic file to take values from.")
    ] = None,
    from_region: Annotated[
        int | None, typer.Option("--from-region", help="Region of that file to take; default: its largest.")
    ] = None,
    recolor: Annotated[str | None, typer.Option(help="New mean color: a name or #rrggbb.")] = None,
    drop_latent: Annotated[
        bool, typer.Option("--drop-latent", help="Keep the semantic layers alone, as without a latent.")
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
    from priorcodec.core.image.color import parse_color
    from priorcodec.core.io import atomic
    from priorcodec.core.layers import editing
    from priorcodec.session import Session

    if (texture_from is None) == (recolor is None):
        raise ConfigError("got both or neither of --texture-from and --recolor, wanted one of them")
    if from_region is not None and texture_from is None:
        raise ConfigError("got --from-region without --texture-from")
    _free(output, force=force)
    color = None if recolor is None else parse_color(recolor, "color")
    codec = Session(options.decode_config(device=device, max_pixels=max_pixels)).codec
    values = None if texture_from is None else editing.values_of(codec, _read(str(texture_from)), from_region)
    change = editing.Edit(region=region, values=values, color=color)
    encoded = editing.edit(codec, _read(file), change, keep_latent=not drop_latent)
    atomic.write(output, encoded.data)
    latent = "none" if encoded.container.string is None else "coded again"
    typer.echo(f"{file} -> {output}: {len(encoded.data)} bytes, region {region} edited, latent: {latent}")


def palette(label: int) -> tuple[int, int, int]:
    """The color that stands for a region: hues a golden angle apart, two brightnesses."""
    r, g, b = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 0.95 - 0.3 * (label % 2))
    return round(255 * r), round(255 * g), round(255 * b)


def _draw(found: Regions, height: int, width: int, output: Path) -> None:
    import numpy as np

    from priorcodec.core.image import io as image_io
    from priorcodec.core.layers.structure import CELL

    colors = np.array([palette(i) for i in range(found.count)], np.uint8)
    pixels = colors[found.labels].repeat(CELL, 0).repeat(CELL, 1)[:height, :width]
    image_io.save(np.ascontiguousarray(pixels), output)


def _read(file: str) -> bytes:
    return read_file(sys.stdin.buffer if file == "-" else file)


def _free(output: Path | None, *, force: bool) -> None:
    if output is not None and output.exists() and not force:
        raise ConfigError(f"{output} exists: give --force to replace it, or another -o")


def _hex(color: tuple[int, int, int] | list[int]) -> str:
    return "#" + "".join(f"{value:02x}" for value in color)
