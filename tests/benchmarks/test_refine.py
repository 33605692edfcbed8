"""benchmarks/refine.py with an untrained encoder and adapter: the rows, their summary, and the table made of them."""

import json

from .conftest import run


def test_costs_fall_and_the_table_shows_them(images, weights, tmp_path):
    run(
        *("refine.py", "small", images, "--first", 2, "--qualities", 0, 1, 2, "--steps", 6, "--results", tmp_path),
        *("--through", "toy", "--encoder", weights["encoder"], "--adapter", weights["toy"]),
    )
    result = json.loads((tmp_path / "small.json").read_text())
    assert result["kind"] == "refine" and len(result["rows"]) == 2 * (2 * 3 + 2)
    targets = {row["target"]: row for row in result["summary"]}
    assert list(targets) == ["psnr", "gmsd"] and targets["gmsd"]["files"] == 4
    assert all(row["lite1_lpips"] > 0 for row in result["rows"])
    for row in targets.values():
        assert row["cost_mean"] <= row["cost_worst"] <= 1 and 0 < row["steps"] <= 6 and row["encodes_median"] > 1
    assert targets["psnr"]["cost_mean"] < 1 and (tmp_path / "small-gmsd.webp").stat().st_size > 0
    page = tmp_path / "page.md"
    page.write_text("<!-- table:small -->\n<!-- end -->\n")
    run("readme.py", "--readme", page, "--results", tmp_path)
    text = page.read_text()
    assert f"| psnr | {targets['psnr']['cost_mean'] - 1:+.1%}" in text and "2 images, qualities 0, 1, 2" in text
    low = [m for m in result["means"] if m["codec"] == "gmsd"]
    assert len(low) == 2 and all(m["bpp"] > 0 and m["psnr"] > 0 and m["gmsd"] > 0 for m in low)
