"""Tables of rate-distortion and speed results, for the report, README.md and docs/."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from priorcodec.evaluation import metrics
from priorcodec.evaluation.table import Table

SHORT = 0.5
"""A BD-rate from less overlap than this is marked."""


def columns(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics of a result by name, with `label` and `independent`: those that nothing was trained on come first."""
    known = {**metrics.METRICS, **metrics.SET_METRICS}
    found = {}
    for name, about in result["metrics"].items():
        independent = known[name].independent if name in known else about.get("independent", True)
        found[name] = {
            **about,
            "independent": independent,
            "label": known[name].label if name in known else about["title"],
        }
    networks = [name for kind in ("resnet_", "lite1_") for name in known if name.startswith(kind)]  # side by side
    order = [*networks, *known, *found]
    return dict(sorted(found.items(), key=lambda item: (not item[1]["independent"], order.index(item[0]))))


def mark_note(result: dict[str, Any]) -> str:
    """What the marks in the headings mean."""
    return f" {metrics.notes(about['label'] for about in columns(result).values())}".rstrip()


def anchors(result: dict[str, Any]) -> list[str]:
    """Codecs that a file's BD-rates are against, in its order."""
    return list(dict.fromkeys(e["anchor"] for e in result["bd_rate"]))


def bd_table(result: dict[str, Any], anchor: str) -> Table:
    """BD-rate of every codec against one anchor, one column per metric."""
    shown = columns(result)
    cells = {(e["codec"], e["metric"]): e for e in result["bd_rate"] if e["anchor"] == anchor}
    if not cells:
        return Table(heads=[], rows=[], note=f"No BD-rate against {anchor}: it was not measured.")
    codecs = [c for c in result["codecs"] if any(key[0] == c for key in cells)]
    rows = [[result["codecs"][c], *(_bd_cell(cells.get((c, m)), len(result["images"])) for m in shown)] for c in codecs]
    note, against = f"Rate at equal quality {_bd_note(result)}", f"against {result['codecs'].get(anchor, anchor)}"
    return Table(heads=[against, *(m["label"] for m in shown.values())], rows=rows, note=note + mark_note(result))


def quality_table(result: dict[str, Any]) -> Table:
    """`bd_table` under independent metrics alone, where there are any."""
    independent = [name for name, about in columns(result).items() if about["independent"]]
    return bd_table({**result, "metrics": {name: result["metrics"][name] for name in independent}}, "vvc")


def ours_table(result: dict[str, Any]) -> Table:
    """BD-rate of each of our codecs against every anchor, one row per pair."""
    shown, titles = columns(result), result["codecs"]
    cells = {(e["codec"], e["anchor"], e["metric"]): e for e in result["bd_rate"]}
    pairs = [
        (c, a) for c in titles if c in result.get("ours", []) for a in anchors(result) if a not in (c, *result["ours"])
    ]
    rows = [
        [titles[c], titles.get(a, a), *(_bd_cell(cells.get((c, a, m)), len(result["images"])) for m in shown)]
        for c, a in pairs
        if any((c, a, m) in cells for m in shown)
    ]
    if not rows:
        return Table(heads=[], rows=[], note="No BD-rate of ours: no anchor was measured.")
    heads = ["codec", "against", *(m["label"] for m in shown.values())]
    note = f"Rate at equal quality {_bd_note(result)}" + mark_note(result)
    return Table(heads=heads, rows=rows, note=note, texts=2)


def _bd_note(result: dict[str, Any]) -> str:
    rates = result.get("between")
    over = f" between {rates[0]:g} and {rates[1]:g} bpp" if rates else ""
    images = f"{len(result['images'])} images"
    if any("per_image" in entry for entry in result["bd_rate"]):
        kind = f"mean of the BD-rates of {images}{over} ± its standard error; without ±, BD-rate of the curves of means"
    else:
        kind = f"BD-rate{over} of the curves of means over {images}"
    return (
        f"({kind}; negative is better); in brackets how much of the two quality ranges overlaps, * where it is under "
        f"{SHORT:.0%}."
    )


def points_table(result: dict[str, Any], codecs: Sequence[str] = ()) -> Table:
    """Mean rate, metrics and, where they were measured, decode seconds at every setting, for the given codecs (default all)."""
    shown = columns(result)
    chosen = [m for m in result["means"] if not codecs or m["codec"] in codecs]
    timed = bool(chosen) and all("decode_seconds" in m for m in chosen)
    rows = [
        [result["codecs"][m["codec"]], m["setting"], f"{m['bpp']:.4f}", *(number(m[k], k) for k in shown)]
        + ([f"{m['decode_seconds']:.2f} s"] if timed else [])
        for m in chosen
    ]
    heads = [
        "codec",
        "setting",
        "bpp",
        *(f"{m['label']} {'↑' if m['higher_is_better'] else '↓'}" for m in shown.values()),
        *(["decode ↓"] if timed else []),
    ]
    note = f"Means over {len(result['images'])} images, rate from whole files."
    note += f" Decoding in processor seconds, {result['threads']} thread(s)." if timed else ""
    note += mark_note(result)
    return Table(heads=heads, rows=rows, note=note)


def speed_table(result: dict[str, Any], codecs: Sequence[str] = ()) -> Table:
    """Median milliseconds by codec (default all), stage and size, ratios to the anchor, peak memory over the sizes."""
    chosen = [r for r in result["rows"] if not codecs or r["codec"] in codecs]
    sizes = sorted({(r["width"], r["height"]) for r in chosen}, key=lambda s: s[0] * s[1])
    lines: dict[tuple[str, str, str], dict[tuple[int, int], dict[str, Any]]] = {}
    for r in chosen:
        lines.setdefault((r["codec"], r["stage"], r["device"]), {})[r["width"], r["height"]] = r
    rows = []
    for (codec, stage, device), cells in lines.items():
        times = [_speed_cell(cells.get(s)) for s in sizes]
        peak = max(c["peak_mib"] for c in cells.values())
        rows.append([f"{result['codecs'][codec]}, {stage}", device, *times, str(peak)])
    heads = ["what", "device", *(f"{w}x{h}" for w, h in sizes), "peak MiB"]
    settings = result["settings"]
    note = f"Milliseconds, median of {settings['repeats']}, {settings['threads']} thread(s), file reading included; "
    return Table(heads=heads, rows=rows, note=note + f"in brackets as a multiple of {settings['anchor']}.")


def _speed_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    ratio = f" ({float(format(row['ratio'], '.2g')):g}x)" if row["ratio"] is not None and row["ratio"] != 1 else ""
    return f"{row['ms']:,.0f}{ratio}" if row["ms"] >= 100 else f"{row['ms']:.3g}{ratio}"


def number(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.{metrics.digits(metric)}f}"


def _bd_cell(entry: dict[str, Any] | None, total: int) -> str:
    """BD-rate of an entry, over `total` images."""
    if entry is None:
        return "-"
    images = entry.get("per_image")
    if images is None and entry["percent"] is None:
        return "no overlap"
    overlap = images["overlap"] if images else entry["overlap"]
    value = f"{images['mean']:+.1f} ± {images['error']:.1f}%" if images else f"{entry['percent']:+.1f}%"
    few = f", {images['images']} images" if images and images["images"] < total else ""
    return f"{value} ({overlap:.0%}{few}){'*' if overlap < SHORT else ''}"
