"""Rate-distortion plots as SVG text: log rate against one metric, colored by CSS variables for dark mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from priorcodec.evaluation.bd_rate import Point

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 42
LIGHT = ("#0b62d6", "#c2410c", "#0f8a5f", "#8b3fc7", "#b3261e", "#64748b", "#a16207", "#0e7490", "#be185d", "#4d7c0f")
DARK = ("#6ea8ff", "#ff9d66", "#4fd1a1", "#c99bf5", "#ff8a80", "#a3b1c6", "#e5b84b", "#5cd0e6", "#f58bbd", "#a5d65a")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:var(--ink)}.t{font-weight:600;font-size:13px}.d{fill:var(--dim)}"
    ".g{stroke:var(--line);stroke-width:1}.c{fill:none;stroke-width:2;stroke-linejoin:round}.p{stroke:var(--paper)}"
)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One codec's curve. color: index into LIGHT and DARK; points: (bpp, metric); labels: tooltips, one per point."""

    codec: str
    title: str
    color: int
    points: Sequence[Point]
    labels: Sequence[str]
    ours: bool = False


def palette(colors: Sequence[str]) -> str:
    """CSS declarations --c0, --c1, ... for a list of colors."""
    return "".join(f"--c{i}:{c};" for i, c in enumerate(colors))


def plot(series: Sequence[Series], *, title: str, higher_is_better: bool, unit: str = "") -> str:
    """The SVG element of one metric; its `data-codec` groups can be hidden one by one."""
    points = [p for s in series for p in s.points]
    xs, ys = _ticks_log([p[0] for p in points]), _ticks([p[1] for p in points])
    low, high = math.log(min(xs[0], *(p[0] for p in points))), math.log(max(xs[-1], *(p[0] for p in points)))

    def at(point: Point) -> tuple[float, float]:
        x = (math.log(point[0]) - low) / ((high - low) or 1)
        y = (point[1] - ys[0]) / ((ys[-1] - ys[0]) or 1)
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    better = "higher is better" if higher_is_better else "lower is better"
    heading = escape(title + (f" ({unit})" if unit else ""))
    parts = [f'<text class="t" x="{LEFT}" y="18">{heading} <tspan class="d">{better}</tspan></text>']
    for x in xs:
        px = at((x, ys[0]))[0]
        parts.append(f'<line class="g" x1="{px:.1f}" x2="{px:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="d" x="{px:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x:g}</text>')
    for y in ys:
        py = at((xs[0], y))[1]
        parts.append(f'<line class="g" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text class="d" x="{LEFT - 7}" y="{py + 4:.1f}" text-anchor="end">{y:g}</text>')
    parts.append(f'<text class="d" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">bits per pixel</text>')
    parts += [_curve(s, [at(p) for p in s.points]) for s in series]
    label = escape(f"{title} against bits per pixel for {', '.join(s.title for s in series)}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _curve(series: Series, places: Sequence[tuple[float, float]]) -> str:
    color, line = f"var(--c{series.color % len(LIGHT)})", " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dash = "" if series.ours else ' stroke-dasharray="5 3"'
    dots = "".join(
        f'<circle class="p" cx="{x:.1f}" cy="{y:.1f}" r="{4.5 if series.ours else 3.5}" fill="{color}"><title>'
        f"{escape(series.title)}, {escape(label)}</title></circle>"
        for (x, y), label in zip(places, series.labels, strict=True)
    )
    curve = f'<polyline class="c" points="{line}" stroke="{color}"{dash}/>'
    return f'<g data-codec="{escape(series.codec, quote=True)}">{curve}{dots}</g>'


def series_of(result: Mapping[str, object], metric: str) -> list[Series]:
    """The curves of one metric in a result file of kind rd; colors follow the order of its codecs."""
    means: list[dict] = result["means"]  # pyright: ignore[reportAssignmentType]
    titles: dict[str, str] = result["codecs"]  # pyright: ignore[reportAssignmentType]
    ours = result.get("ours", [])
    found = []
    for i, (codec, title) in enumerate(titles.items()):
        rows = sorted((m for m in means if m["codec"] == codec and m.get(metric) is not None), key=lambda m: m["bpp"])
        labels = [f"setting {m['setting']}: {m['bpp']:.4f} bpp, {m[metric]:.4f}" for m in rows]
        points = [(m["bpp"], m[metric]) for m in rows]
        own = codec in ours  # pyright: ignore[reportOperatorIssue]
        if rows:
            found.append(Series(codec=codec, title=title, color=i, points=points, labels=labels, ours=own))
    return found


def _ticks(values: Sequence[float]) -> list[float]:
    """Four to eight round numbers around the values."""
    low, high = min(values), max(values)
    raw = (high - low) / 5 or 1.0
    base = 10 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= raw)
    first = math.floor(low / step)
    return [round((first + i) * step, 10) for i in range(math.ceil(high / step) - first + 1)]


def _ticks_log(values: Sequence[float]) -> list[float]:
    """1, 2, 5 times powers of ten that lie around the values."""
    every = [m * 10.0**e for e in range(-5, 3) for m in (1, 2, 5)]
    start = max((i for i, v in enumerate(every) if v <= min(values)), default=0)
    stop = min((i for i, v in enumerate(every) if v >= max(values)), default=len(every) - 1)
    return [float(f"{v:g}") for v in every[start : max(stop, start + 1) + 1]]
