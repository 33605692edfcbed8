"""benchmarks/rate.py with the shipped encoder: every target counted as hit, missed or out of reach."""

import json

from .conftest import run


def test_targets_are_hit_or_said_to_be_out_of_reach(images, tmp_path):
    run("rate.py", "small", images, "--targets", 0.001, 0.2, 9, "--results", tmp_path)
    result = json.loads((tmp_path / "small.json").read_text())
    assert result["kind"] == "rate" and len(result["rows"]) == 6
    below, hit, above = result["summary"]
    assert below["below"] == 2 and above["above"] == 2
    assert hit["hit"] + hit["missed"] == 2 and 0 <= hit["mean_under"] <= hit["worst_under"] < 0.06
    for row in result["rows"]:
        if row["outcome"] in ("hit", "missed"):
            assert row["smallest"] <= row["bytes"] <= row["target_bytes"] < row["largest"]
            assert row["encodes"] > 0 and 3 <= row["files_written"] <= 30
