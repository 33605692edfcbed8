"""`priorcodec report`: one self-contained HTML page out of result files: plots, tables and an image slider."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files as resources
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from priorcodec.core.errors import ConfigError
from priorcodec.core.image import io as image_io
from priorcodec.core.io import atomic
from priorcodec.core.io.names import one_line
from priorcodec.evaluation import metrics
from priorcodec.evaluation.report import plot, tables
from priorcodec.evaluation.table import Table

KINDS = ("rd", "speed")
MADE_BY = ("versions", "machine", "command")
NEEDED = {
    "rd": {*MADE_BY, "name", "metrics", "codecs", "ours", "rows", "means", "bd_rate", "images", "left_out"},
    "speed": {*MADE_BY, "name", "codecs", "settings", "rows"},
}
"""What the page shows of each kind."""
RATES, QUALITY = 3, 90
"""Rates shown per image; WebP quality of the images on the page (their scores are of the real files)."""


def build(results: Sequence[Path], output: Path, *, images: Path | None = None, replace: bool = True) -> None:
    """Write `output` from result files or folders of them.

    images: what `benchmarks/rd.py --keep` wrote, original/NAME.png and CODEC/SETTING/NAME.png; without it there is no
    slider; replace: an existing output. Raises ConfigError if nothing readable is found.
    """
    loaded = load(results)
    try:
        page = _page(loaded, images)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"a result file has a field of the wrong kind ({one_line(error)}): make it again") from error
    atomic.write(output, page.encode(), replace=replace)


def _page(loaded: Sequence[dict[str, Any]], images: Path | None) -> str:
    body, embedded = [], []
    viewed: dict[str, Any] = {"metrics": {}, "digits": {}, "images": [], "embedded": embedded}
    for result in loaded:
        if result["kind"] == "rd":
            body.append(_rd_section(result))
            if images is not None:
                viewed["metrics"] |= {k: tables.columns(result)[k]["label"] for k in _of_images(result)}
                viewed["digits"] |= {k: metrics.digits(k) for k in _of_images(result)}
                viewed["images"] += _images(result, images, embedded)
        else:
            body.append(_section(f"Speed: {result['name']}", tables.speed_table(result)))
    if viewed["images"]:
        body.insert(0, _part("viewer.html").substitute(quality=QUALITY))
    sets = [r for r in loaded if r["kind"] == "rd"]
    lead = "".join(f"{escape(r['name'])}: {len(r['images'])} images. " for r in sets)
    style = _part("page.css").substitute(light=plot.palette(plot.LIGHT), dark=plot.palette(plot.DARK), plot=plot.STYLE)
    return _part("page.html").substitute(
        title="PriorCodec report", style=style, body="\n".join(body), footer="<br>".join(map(_made_by, loaded)),
        lead=lead + "Rates are whole files on disk; metrics compare the decoded file with the untouched image.",
        data=json.dumps(viewed, allow_nan=False).replace("</", "<\\/"), script=_text("page.js"),
    )  # fmt: skip


def files(results: Sequence[Path]) -> list[Path]:
    """Result files, and those in folders."""
    return [p for r in map(Path, results) for p in (sorted(r.glob("*.json")) if r.is_dir() else [r])]


def load(results: Sequence[Path]) -> list[dict[str, Any]]:
    """Result files of KINDS, in that order. Raises ConfigError where there is none."""
    loaded = []
    for path in files(results):
        try:
            result = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}: not a readable result file ({error}); make one with benchmarks/rd.py"
            ) from error
        if isinstance(result, dict) and result.get("kind") in KINDS:
            if lacks := sorted(NEEDED[result["kind"]] - result.keys()):
                raise ConfigError(f"{path}: not a whole result file, it lacks {', '.join(lacks)}; make it again")
            loaded.append(result)
    if not loaded:
        raise ConfigError(
            f"no result file of kind {', '.join(KINDS)} among those given; make one with benchmarks/rd.py"
        )
    return sorted(loaded, key=lambda r: KINDS.index(r["kind"]))


def _section(title: str, table: Table) -> str:
    return f"<section><h2>{escape(title)}</h2>{table.html()}</section>"


def _rd_section(result: dict[str, Any]) -> str:
    drawn, chips = [], ""
    for metric, about in tables.columns(result).items():
        if not (series := plot.series_of(result, metric)):
            continue  # it is defined for no image of this set
        up, unit = about["higher_is_better"], about["unit"]
        drawn.append(plot.plot(series, title=about["label"], higher_is_better=up, unit=unit))
        chips = chips or "".join(
            f'<button type="button" aria-pressed="true" data-codec="{escape(s.codec, quote=True)}">'
            f'<i style="background:var(--c{s.color % len(plot.LIGHT)})"></i>{escape(s.title)}</button>'
            for s in series
        )
    left_out = "".join(f'<p class="note">Left out: {escape(line)}</p>' for line in result["left_out"])
    bd_tables = [tables.bd_table(result, anchor) for anchor in tables.anchors(result)]
    bd = "".join(replace(table, note="").html() for table in bd_tables[:-1])
    bd += "".join(table.html() for table in bd_tables[-1:])
    points = f"<details><summary>All points</summary>{tables.points_table(result).html()}</details>"
    return (
        f'<section><h2>Rate and quality: {escape(result["name"])}</h2><div class="row legend">{chips}</div>'
        f'<div class="plots">{"".join(drawn)}</div>'
        f"<h2>Bitrate at equal quality: {escape(result['name'])}</h2>{bd}{points}{left_out}</section>"
    )


def _images(result: dict[str, Any], folder: Path, embedded: list[str]) -> list[dict[str, Any]]:
    """Viewer entries of every image whose decoded versions were kept: per rate, each codec at the nearest size."""
    found = []
    for about in result["images"]:
        name = about["name"]
        original = folder / "original" / f"{name}.png"
        rows = [r for r in result["rows"] if r["image"] == name and _kept(folder, r).is_file()]
        if not original.is_file() or not rows:
            continue
        first = {"title": "Original", "setting": "", "image": _embed(original, embedded)}
        seen: dict[tuple[str, str], int] = {}
        rates = []
        matched = _base(result, rows)
        shown = [c for c in result.get("ours", []) if c.partition("-")[0] != "preview"] or [matched]
        for base in _spread([r for r in rows if r["codec"] == matched]):
            versions = [first]
            for codec in result["codecs"]:
                own = [r for r in rows if r["codec"] == codec]
                if not own:
                    continue
                row = min(own, key=lambda r: abs(math.log(r["bytes"] / base["bytes"])))
                key = (codec, row["setting"])
                if key not in seen:
                    seen[key] = _embed(_kept(folder, row), embedded)
                scores = {k: row[k] for k in ("setting", "bytes", "bpp", *_of_images(result))}
                versions.append({"title": result["codecs"][codec], "codec": codec, "image": seen[key], **scores})
            focus = next((i for i, v in enumerate(versions) if v.get("codec") in shown), 1)
            rates.append({"label": f"{base['bpp']:.3f} bpp", "focus": focus, "versions": versions})
        found.append({"name": name, "width": about["width"], "height": about["height"], "rates": rates})
    return found


def _of_images(result: dict[str, Any]) -> list[str]:
    """Metrics that every image has a score of; distances of sets have none."""
    return [name for name in tables.columns(result) if all(name in row for row in result["rows"])]


def _base(result: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The codec whose sizes the others are matched to: the first of ours, else the BD-rate anchor, else the first."""
    there = {r["codec"] for r in rows}
    wanted = [*result.get("ours", []), *(e["anchor"] for e in result["bd_rate"]), *result["codecs"]]
    return next(c for c in wanted if c in there)


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most RATES of the rows, from small to large, the ends included."""
    ordered = sorted(rows, key=lambda r: r["bytes"])
    count = min(RATES, len(ordered))
    return [ordered[round(i * (len(ordered) - 1) / max(count - 1, 1))] for i in range(count)]


def _kept(folder: Path, row: dict[str, Any]) -> Path:
    return folder / row["codec"] / row["setting"] / f"{row['image']}.png"


def _embed(path: Path, embedded: list[str]) -> int:
    Image.fromarray(image_io.load(path).pixels).save(out := io.BytesIO(), "WEBP", quality=QUALITY, method=4)
    embedded.append("data:image/webp;base64," + base64.b64encode(out.getvalue()).decode())
    return len(embedded) - 1


def _made_by(result: dict[str, Any]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    cpus = result["machine"]["cpus"]
    return escape(f"{result['name']}: {result['command']} ({cpus} processors; {packages})")


def _text(name: str) -> str:
    return (resources("priorcodec.evaluation.report") / name).read_text(encoding="utf-8")


def _part(name: str) -> Template:
    return Template(_text(name))
