"""Score files against their references: the body of `priorcodec eval`, and the one scoring path of every benchmark.

REFERENCE ─image_io.load─▶ (h, w, 3) ─────────────┐
FILE ─bytes on disk─▶ bpp                      ├─▶ metrics.score ─▶ row ─▶ table, CSV or JSON
FILE ─read: Pillow, PyAV or a session─▶ (h, w, 3) ┘
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from priorcodec.batch import runner
from priorcodec.core import container
from priorcodec.core.errors import ConfigError, ImageError
from priorcodec.core.image import io as image_io
from priorcodec.evaluation import metrics
from priorcodec.evaluation.table import Table

IMAGES = image_io.SUFFIXES | {".jxl"}
STREAMS = {".266": "vvc", ".vvc": "vvc", ".265": "hevc", ".hevc": "hevc", ".obu": "obu"}
CODED = STREAMS.keys() | {container.SUFFIX}
INPUTS = IMAGES | CODED
"""Suffixes of what can be evaluated."""
UNCODED = {".png", ".tif", ".tiff"}
"""Suffixes of decoded images. Their own size is meaningless, so the rate is taken from the coded file beside them."""
DIGITS = 6
Row = dict[str, Any]


def read(path: Path, *, backbone: str | None = None) -> metrics.Pixels:
    """Decode a file of any format that is compared. Video streams are read as BT.709 full range, first frame.

    Args:
        path: PNG, JPEG, WebP, AVIF, TIFF, JPEG XL, a raw VVC, HEVC or AV1 stream, or .gic.
        backbone: which one decodes .gic files; None is the preview, which needs none.

    Returns:
        uint8 (h, w, 3).

    Raises:
        ImageError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == container.SUFFIX:
        session = _session(backbone)
        return (session.preview if backbone is None else session.decode)(path, output="np")
    if suffix == ".jxl":
        return _read_jxl(path)
    return read_stream(path, STREAMS[suffix]) if suffix in STREAMS else image_io.load(path).pixels


def read_stream(path: Path, form: str) -> metrics.Pixels:
    """First frame of a raw HEVC, VVC or AV1 stream, taken as BT.709 full range."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise ImageError(f"{path}: a {form} stream needs PyAV; install priorcodec[bench]") from error
    try:
        with av.open(str(path), format=form) as stream:
            return rgb(next(stream.decode(video=0)))
    except (FFmpegError, StopIteration) as error:
        raise ImageError(f"{path}: not a readable {form} stream ({error})") from error


def rgb(frame: Any) -> metrics.Pixels:
    """A PyAV frame of BT.709 full-range YUV -> uint8 (h, w, 3)."""
    full = {"src_color_range": "JPEG", "dst_color_range": "JPEG"}
    return frame.reformat(format="rgb24", src_colorspace="ITU709", dst_colorspace="ITU709", **full).to_ndarray()


def reference_of(file: Path, references: Sequence[Path]) -> Path:
    """The reference a file belongs to: `kodim01-q3.gic` belongs to `kodim01.png`, and the longest such name wins.

    `a.png.gic`, as `encode` names it beside an `a.webp`, belongs to `a.png`.

    Raises:
        ConfigError: The file's name fits no reference, or several.
    """
    if whole := [r for r in references if file.name.startswith(f"{r.name}.") or file.name == r.name]:
        return max(whole, key=lambda r: len(r.name))
    fits = [r for r in references if file.stem == r.stem or (file.stem.startswith(r.stem) and _ends(file.stem, r.stem))]
    if not fits:
        raise ConfigError(f"{file.name} fits no reference; name it like one of them, as in {references[0].stem}-q4.gic")
    longest = max(len(r.stem) for r in fits)
    best = [r for r in fits if len(r.stem) == longest]
    if best[1:]:
        raise ConfigError(
            f"{file.name} fits {best[0].name} and {best[1].name}; name it {best[0].name}.gic or {best[1].name}.gic"
        )
    return best[0]


def score(
    reference: metrics.Pixels, image: metrics.Pixels, file_bytes: int | None, names: Iterable[str]
) -> dict[str, Any]:
    """bytes, bpp and every named metric, rounded to DIGITS decimals; None where undefined or infinite.

    The one place where a row's digits are made: `eval`, benchmarks/rd.py and the report all print these.
    """
    values: dict[str, Any] = {"bytes": file_bytes, "bpp": None}
    if file_bytes is not None:
        values["bpp"] = round(metrics.bpp(file_bytes, *reference.shape[:2]), DIGITS)
    for name, value in metrics.score(reference, image, names).items():
        values[name] = round(value, DIGITS) if value is not None and math.isfinite(value) else None
    return values


def evaluate(
    references: Sequence[Path],
    files: Sequence[Path],
    names: Iterable[str],
    *,
    backbone: str | None = None,
    coded: Path | None = None,
) -> Iterator[tuple[Path, Row | Exception]]:
    """Score files one by one, in order of name. A reference is read once for all its files that follow each other.

    One reference and one file belong together whatever their names; otherwise `reference_of` decides.

    Args:
        references: files or folders of untouched images.
        files: files or folders of coded or decoded images.
        names: metrics.
        backbone: which one decodes .gic files; None is the preview.
        coded: where the coded files of already decoded images (PNG, TIFF) are; by default beside them, as .gic.

    Yields:
        Each file with its row (image, file, bytes, bpp and the named metrics), or with the error that prevented it.

    Raises:
        ConfigError: There are no references or no files.
    """
    names, last, pixels = list(names), None, np.empty(0)
    known, every = expand(references, IMAGES), expand(files, INPUTS)
    alone = len(known) == len(every) == 1
    for file in sorted(every, key=lambda f: f.stem):
        result: Row | Exception
        try:
            reference = known[0] if alone else reference_of(file, known)
            if reference != last:
                pixels, last = image_io.load(reference).pixels, reference
            values = score(pixels, read(file, backbone=backbone), _file_bytes(file, coded), names)
            result = {"image": reference.stem, "file": file.name, **values}
        except Exception as error:
            result = error
        yield file, result


def mean(rows: Sequence[Row]) -> Row:
    """Mean of every number over the rows; None as soon as one row has none."""
    keys = [k for k in rows[0] if k not in ("image", "file", "codec", "setting")]
    columns = {k: [row[k] for row in rows] for k in keys}
    return {k: None if None in c else round(sum(c) / len(c), DIGITS) for k, c in columns.items()}


def render(rows: Sequence[Row], style: str) -> str:
    """Rows and their mean as `table`, `csv` or `json`."""
    every = [*rows, {"image": "mean", "file": f"{len(rows)} files", **mean(rows)}]
    if style == "json":
        return json.dumps({"rows": list(rows), "mean": mean(rows)}, indent=1, allow_nan=False) + "\n"
    if style == "csv":
        writer = csv.DictWriter(out := io.StringIO(), list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(every)
        return out.getvalue()
    heads = [metrics.METRICS[k].label if k in metrics.METRICS else k for k in rows[0]]
    cells = [[_cell(k, row[k]) for k in row] for row in every]
    return Table(heads=heads, rows=cells, texts=2, note=metrics.notes(heads)).text()


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if key == "bytes" else f"{value:.{metrics.digits(key)}f}"


def expand(sources: Sequence[Path], suffixes: Iterable[str]) -> list[Path]:
    """The files given, and those with one of the suffixes in the folders given, each once. Raises ConfigError: none."""
    for source in sources:
        if not source.exists():
            raise ConfigError(f"{source} does not exist; give a file or a folder")
    found = runner.expand(sources, tuple(suffixes))
    if not found:
        raise ConfigError(f"no image in {', '.join(map(str, sources))}; give a file or a folder that holds some")
    return found


def _ends(stem: str, prefix: str) -> bool:
    return not stem[len(prefix)].isalnum()


def _file_bytes(file: Path, coded: Path | None) -> int | None:
    """Size of a coded file; for a decoded `photo.nano_pixel.png` that of `photo.gic` beside it or in `coded`."""
    if file.suffix.lower() not in UNCODED:
        return file.stat().st_size
    if coded is not None and coded.is_file():
        return coded.stat().st_size
    kinds = {container.SUFFIX} if coded is None else CODED | (IMAGES - UNCODED)
    around = [p for p in (coded or file.parent).iterdir() if p.suffix.lower() in kinds]
    fits = [p for p in around if file.stem == p.stem or file.stem.startswith(p.stem + ".")]
    return max(fits, key=lambda p: len(p.stem)).stat().st_size if fits else None


def _read_jxl(path: Path) -> metrics.Pixels:
    try:
        import pillow_jxl  # pyright: ignore[reportMissingImports] # noqa: F401 (registers the format with Pillow)
    except ImportError as error:
        raise ImageError(f"{path}: JPEG XL needs the package pillow-jxl-plugin; install priorcodec[bench]") from error
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image_io.from_any(image).pixels
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: not a readable JPEG XL file ({error})") from error


@cache
def _session(backbone: str | None) -> Any:
    from priorcodec import open_session

    return open_session() if backbone is None else open_session(backbone)
