"""The tables of report and README, as headings and cells of text: BD-rate, points, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHORT = 0.5
"""A BD-rate from less overlap than this is marked."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """heads: one per column; rows: text cells; note: one sentence on how to read it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        lines = [self.heads, ["---", *["---:"] * (len(self.heads) - 1)], *self.rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return text + (f"\n\n{self.note}" if self.note else "")


def bd_table(result: dict[str, Any]) -> Table:
    """BD-rate of every codec against the file's anchor, one column per metric."""
    entries, metrics = result["bd_rate"], result["metrics"]
    cells = {(e["codec"], e["metric"]): e for e in entries}
    codecs = [c for c in result["codecs"] if any(key[0] == c for key in cells)]
    rows = [[result["codecs"][c], *(_bd_cell(cells.get((c, m))) for m in metrics)] for c in codecs]
    anchor = result["codecs"].get(entries[0]["anchor"], entries[0]["anchor"]) if entries else "the anchor"
    note = (
        f"Rate against {anchor} at equal quality (BD-rate, means over {len(result['pictures'])} pictures; negative is "
        f"better); in brackets how much of the two quality ranges overlaps, * where it is under {SHORT:.0%}."
    )
    return Table(heads=["codec", *(m["title"] for m in metrics.values())], rows=rows, note=note)


def points_table(result: dict[str, Any], codecs: Sequence[str] = ()) -> Table:
    """Mean rate and metrics at every setting, for the given codecs (default all)."""
    metrics = result["metrics"]
    rows = [
        [result["codecs"][m["codec"]], m["setting"], f"{m['bpp']:.4f}", *(number(m[k], k) for k in metrics)]
        for m in result["means"]
        if not codecs or m["codec"] in codecs
    ]
    heads = [
        "codec",
        "setting",
        "bpp",
        *(f"{m['title']} {'↑' if m['higher_is_better'] else '↓'}" for m in metrics.values()),
    ]
    return Table(heads=heads, rows=rows, note=f"Means over {len(result['pictures'])} pictures, rate from whole files.")


def speed_table(result: dict[str, Any]) -> Table:
    """Median milliseconds by codec, stage and picture size, ratios to the anchor, peak memory over the sizes."""
    sizes = sorted({(r["width"], r["height"]) for r in result["rows"]}, key=lambda s: s[0] * s[1])
    lines: dict[tuple[str, str, str], dict[tuple[int, int], dict[str, Any]]] = {}
    for r in result["rows"]:
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
    ratio = f" ({row['ratio']:.2g}x)" if row["ratio"] is not None and row["ratio"] != 1 else ""
    return f"{row['ms']:,.0f}{ratio}" if row["ms"] >= 100 else f"{row['ms']:.3g}{ratio}"


def number(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if metric in ("psnr", "ssimulacra2") else f"{value:.4f}"


def _bd_cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    if entry["percent"] is None:
        return "no overlap"
    return f"{entry['percent']:+.1f}% ({entry['overlap']:.0%}){'*' if entry['overlap'] < SHORT else ''}"
