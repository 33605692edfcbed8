"""Rate-distortion curves of result rows: means per setting and the Bjontegaard delta rate (package bjontegaard).

BD-rate after Bjontegaard, VCEG-M33 (2001), with piecewise cubic interpolation (pchip) of log rate over quality, given with the
overlap of the two quality ranges: a BD-rate from a short overlap says little. Of several images it is the mean of their
BD-rates, with its standard error, as JVET's common test conditions take it. The BD-rate of the curves of means stands beside it:
it is smaller where one codec spends its bits more unevenly over images, and the only one for a metric of whole sets.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from priorcodec.core.errors import ConfigError
from priorcodec.evaluation.evaluate import mean

Point = tuple[float, float]
"""(bits per pixel, metric)."""


@dataclass(frozen=True, kw_only=True)
class BDRate:
    """Mean rate difference at equal quality.

    Attributes:
        percent: rate of the test over the anchor, -50 is half; None without overlap or with one point.
        overlap: common part of the two quality ranges over their union, in [0, 1].
        low: lower end of the common part, in the metric.
        high: its upper end.
    """

    percent: float | None
    overlap: float
    low: float
    high: float


def pareto_front(points: Sequence[Point], *, higher_is_better: bool) -> list[Point]:
    """Points by rising rate, without those that a cheaper point matches or exceeds in quality: one rate per quality."""
    kept: list[Point] = []
    sign = 1 if higher_is_better else -1
    for rate, value in sorted(points):
        if not kept or sign * value > sign * kept[-1][1]:
            kept.append((rate, value))
    return kept


def bd_rate(anchor: Sequence[Point], test: Sequence[Point], *, higher_is_better: bool) -> BDRate:
    """Mean rate difference of `test` against `anchor`.

    Raises:
        ConfigError: a curve is empty or has a rate of 0.
    """
    if not anchor or not test or min(rate for rate, _ in [*anchor, *test]) <= 0:
        raise ConfigError("a curve has no point or a rate of 0; BD-rate wants at least two points with rates above 0")
    sign = 1 if higher_is_better else -1
    a, t = (pareto_front(points, higher_is_better=higher_is_better) for points in (anchor, test))
    ranges = [[sign * value for _, value in curve] for curve in (a, t)]
    low, high = max(r[0] for r in ranges), min(r[-1] for r in ranges)
    union = max(r[-1] for r in ranges) - min(r[0] for r in ranges)
    overlap = max(high - low, 0.0) / union if union else 0.0
    result = None
    if overlap and len(a) > 1 and len(t) > 1:
        import bjontegaard

        rates = [[rate for rate, _ in curve] for curve in (a, t)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns about short overlaps; we state every overlap instead
            value = bjontegaard.bd_rate(
                rates[0], ranges[0], rates[1], ranges[1], "pchip", require_matching_points=False
            )
        result = float(value) if math.isfinite(value) else None  # pyright: ignore[reportArgumentType]
    return BDRate(percent=result, overlap=overlap, low=min(sign * low, sign * high), high=max(sign * low, sign * high))


def clip_to_rate_range(curve: Sequence[Point], low: float, high: float) -> list[Point]:
    """The part of a curve between `low` and `high` bits per pixel.

    An end that lies inside the curve becomes a point of its own, interpolated as `bd_rate` does: piecewise cubic in the
    logarithm of the rate. Of several points of one rate, that of the largest value counts.
    """
    from scipy.interpolate import PchipInterpolator

    points = [(rate, value) for rate, value in dict(sorted(curve)).items() if rate > 0]
    inside = [point for point in points if low < point[0] < high]
    ends = [rate for rate in (low, high) if points and points[0][0] <= rate <= points[-1][0]]
    if ends and len(points) > 1:
        value = PchipInterpolator([math.log(rate) for rate, _ in points], [value for _, value in points])
        inside += [(rate, float(value(math.log(rate)))) for rate in ends]
    return sorted(inside)


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean row per (codec, setting), in order of first appearance, with the number of images."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["codec"], row["setting"]), []).append(row)
    return [{"codec": c, "setting": s, "images": len(g), **mean(g)} for (c, s), g in groups.items()]


def curve(mean_rows: Sequence[dict[str, Any]], codec: str, metric: str) -> list[Point]:
    """(bpp, metric) of one codec's rows, one for each setting; settings without a value are left out."""
    rows = [r for r in mean_rows if r["codec"] == codec and r.get(metric) is not None and r["bpp"] is not None]
    return sorted((r["bpp"], r[metric]) for r in rows)


def bd_table(
    mean_rows: Sequence[dict[str, Any]],
    anchor: str,
    higher: dict[str, bool],
    rates: tuple[float, float] | None = None,
    rows: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """BD-rate of every codec against one anchor under every metric.

    Args:
        mean_rows: as `means` gives them.
        anchor: codec that the others are compared with.
        higher: metric -> whether higher is better.
        rates: range in bits per pixel that all curves are clipped to.
        rows: of single images, for the mean of their BD-rates.

    Returns:
        One entry per codec and metric: codec, anchor, metric; percent, overlap, low, high of the curves of means; and, where
        rows of at least two images have a BD-rate, `per_image`: mean, error (standard, of the mean), overlap (mean), images
        (those with a BD-rate).
    """
    table, codecs = [], dict.fromkeys(r["codec"] for r in mean_rows)
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_image.setdefault(row["image"], []).append(row)
    for codec in codecs:
        for metric, up in higher.items():
            bd = None if codec == anchor else _compare(mean_rows, anchor, codec, metric, up, rates)
            if bd is None:
                continue
            percent = None if bd.percent is None else round(bd.percent, 2)
            entry = {"codec": codec, "anchor": anchor, "metric": metric, "percent": percent}
            entry |= {"overlap": round(bd.overlap, 3), "low": bd.low, "high": bd.high}
            found = [_compare(part, anchor, codec, metric, up, rates) for part in by_image.values()]
            single = [(one.percent, one.overlap) for one in found if one is not None and one.percent is not None]
            if len(single) > 1:
                percents, overlaps = zip(*single, strict=True)
                error = stdev(percents) / math.sqrt(len(percents))
                values = {"mean": fmean(percents), "error": error, "overlap": fmean(overlaps)}
                entry["per_image"] = {k: round(v, 3) for k, v in values.items()} | {"images": len(percents)}
            table.append(entry)
    return table


def _compare(
    rows: Sequence[dict[str, Any]],
    anchor: str,
    codec: str,
    metric: str,
    up: bool,
    rates: tuple[float, float] | None,
) -> BDRate | None:
    """BD-rate of two codecs' rows, clipped to `rates`; None where one has no point there."""
    base, test = curve(rows, anchor, metric), curve(rows, codec, metric)
    if rates:
        base, test = clip_to_rate_range(base, *rates), clip_to_rate_range(test, *rates)
    return bd_rate(base, test, higher_is_better=up) if base and test else None
