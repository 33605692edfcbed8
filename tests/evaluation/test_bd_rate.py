"""BD-rate: zero against itself, +100% at twice the rate, sign, overlap, and curves that are no functions."""

import pytest

from priorcodec.core.errors import ConfigError
from priorcodec.evaluation import bd_rate

pytest.importorskip("bjontegaard")
PSNR = [(0.05, 24.0), (0.1, 26.5), (0.2, 29.0), (0.4, 31.0)]
DISTANCE = [(0.05, 0.41), (0.1, 0.29), (0.2, 0.18), (0.4, 0.09)]
CURVES = pytest.mark.parametrize(("curve", "up"), [(PSNR, True), (DISTANCE, False)])


@CURVES
def test_a_codec_against_itself(curve, up):
    result = bd_rate.bd_rate(curve, curve, higher_is_better=up)
    assert result.percent == pytest.approx(0, abs=1e-6)
    assert result.overlap == pytest.approx(1)
    assert (result.low, result.high) == (min(v for _, v in curve), max(v for _, v in curve))


@CURVES
def test_twice_the_rate_is_plus_100_percent(curve, up):
    double = [(2 * rate, value) for rate, value in curve]
    assert bd_rate.bd_rate(curve, double, higher_is_better=up).percent == pytest.approx(100, abs=0.1)
    assert bd_rate.bd_rate(double, curve, higher_is_better=up).percent == pytest.approx(-50, abs=0.1)


def test_other_points_of_one_curve_still_cost_nothing():
    """value = 8 log2(rate) + 60 at different rates: linear in log rate, so interpolation is exact."""
    line = [(2.0**k, 8.0 * k + 60) for k in (-5, -4, -3, -2)]
    other = [(2.0**k, 8.0 * k + 60) for k in (-4.7, -3.1, -2.6)]
    result = bd_rate.bd_rate(line, other, higher_is_better=True)
    assert result.percent == pytest.approx(0, abs=1e-6)
    assert result.overlap == pytest.approx(2.1 / 3)


def test_no_overlap_is_no_figure():
    result = bd_rate.bd_rate(PSNR, [(0.1, 10.0), (0.2, 12.0)], higher_is_better=True)
    assert (result.percent, result.overlap) == (None, 0)


def test_one_point_is_no_curve():
    assert bd_rate.bd_rate(PSNR, [(0.1, 25.0)], higher_is_better=True).percent is None


def test_points_that_cost_more_for_less_are_dropped():
    assert bd_rate.pareto_front([*PSNR, (0.3, 25.0)], higher_is_better=True) == PSNR
    assert bd_rate.pareto_front([*DISTANCE, (0.3, 0.18)], higher_is_better=False) == DISTANCE


def test_a_part_of_a_curve_ends_where_it_is_asked_to():
    """value = 8 log2(rate) + 60: the interpolation is exact, and the parts of one line still cost the same."""
    line = [(2.0**k, 8.0 * k + 60) for k in (-6, -5, -4, -3, -2)]
    part = bd_rate.clip_to_rate_range(line, 2.0**-4.5, 2.0**-2.5)
    assert part == [pytest.approx(point) for point in ((2.0**k, 8.0 * k + 60) for k in (-4.5, -4, -3, -2.5))]
    assert bd_rate.clip_to_rate_range(line, 0.001, 1.0) == line  # it does not reach so far
    assert bd_rate.clip_to_rate_range([(0.1, 3.0)], 0.2, 0.3) == []
    doubled = [(0.0, 1.0), *line, *((rate, value - 1) for rate, value in line)]
    assert bd_rate.clip_to_rate_range(doubled, 2.0**-4.5, 2.0**-2.5) == part
    double = [(2 * rate, value) for rate, value in line]
    means = [{"codec": c, "setting": str(i), "bpp": r, "psnr": v}
             for c, points in (("one", line), ("two", double)) for i, (r, v) in enumerate(points)]  # fmt: skip
    (entry,) = bd_rate.bd_table(means, "one", {"psnr": True}, (2.0**-4.5, 2.0**-2.5))
    assert entry["percent"] == pytest.approx(100, abs=0.1)
    assert (entry["low"], entry["high"]) == (pytest.approx(8 * -4.5 + 60), pytest.approx(8 * -3.5 + 60))


def test_empty_curve():
    with pytest.raises(ConfigError, match="no point"):
        bd_rate.bd_rate([], PSNR, higher_is_better=True)


def rows(codec: str, scale: float) -> list[dict]:
    return [
        {"codec": codec, "setting": str(i), "image": p, "bytes": 100, "bpp": scale * rate * w, "psnr": value}
        for i, (rate, value) in enumerate(PSNR)
        for p, w in (("a", 0.5), ("b", 1.5))
    ]


def test_table_from_rows():
    means = bd_rate.means([*rows("one", 1), *rows("two", 2)])
    assert [m["bpp"] for m in means if m["codec"] == "one"] == [rate for rate, _ in PSNR]
    (entry,) = bd_rate.bd_table(means, "one", {"psnr": True})
    assert entry == {
        "codec": "two",
        "anchor": "one",
        "metric": "psnr",
        "percent": 100.0,
        "overlap": 1.0,
        "low": 24.0,
        "high": 31.0,
    }


def test_the_mean_of_the_images_is_taken_with_its_error():
    """Image a costs twice as much, b half, c has no curve; whoever weighs by rate sees another figure."""
    every = [*rows("one", 1)]
    every += [{**r, "codec": "two", "bpp": r["bpp"] * {"a": 2, "b": 0.5}[r["image"]]} for r in rows("one", 1)]
    every += [{**r, "codec": "two", "image": "c"} for r in rows("one", 1) if r["image"] == "a"]
    (entry,) = bd_rate.bd_table(bd_rate.means(every), "one", {"psnr": True}, rows=every)
    values = entry["per_image"]
    assert values["mean"] == pytest.approx(25, abs=0.1) and values["error"] == pytest.approx(75, abs=0.1)  # +100, -50
    assert (values["images"], values["overlap"]) == (2, 1)
    assert entry["percent"] != pytest.approx(25, abs=5)


def test_a_missing_value_leaves_the_mean_open():
    some = rows("one", 1)
    some[0]["psnr"] = None
    means = bd_rate.means(some)
    assert means[0]["psnr"] is None and means[1]["psnr"] == 26.5
    assert len(bd_rate.curve(means, "one", "psnr")) == 3
