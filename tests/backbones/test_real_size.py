"""Full-size models with random weights through the real loader, in fresh processes: benchmarks/full_size.py. Slow.

What was measured with it lies in benchmarks/results/full_size.json.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from priorcodec.registry import open_registry

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "full_size.py"
GIB = 2**30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("model", "limit"), [("sd15:float32", 9 * GIB), ("pixart:float32", 8 * GIB), ("sdxl:bfloat16", 12 * GIB)]
)
def test_one_step_at_512_on_the_cpu(model, limit):
    words = [sys.executable, str(SCRIPT), model, "--side", "512"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads(done.stdout)
    assert row["finite"]
    assert row["shape"] == [1, 3, 512, 512]
    assert 0 < row["peak_bytes"] < limit
    assert row["denoise_seconds"] > 0


def test_the_kept_result_is_of_real_models():
    """Three families at full size, in one step at 512x512; a model that did not run would have a row that says so."""
    result = json.loads((SCRIPT.parent / "results" / "full_size.json").read_text())
    specs = open_registry().specs()
    assert [row["backbone"] for row in result["rows"]] == ["sd15", "pixart", "sdxl"]
    for row in result["rows"]:
        assert row["finite"] and row["shape"] == [1, 3, 512, 512]
        assert row["parameters"] == specs[row["backbone"]].parameters
        assert row["peak_bytes"] > row["parameters"] * (4 if row["dtype"] == "float32" else 2)
        assert 0 < row["denoise_cpu_seconds"] <= row["denoise_seconds"] * row["threads"] + 1


def test_a_model_that_does_not_run_gives_a_row_that_says_so():
    words = [sys.executable, str(SCRIPT), "no-such-model", "--side", "64"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert json.loads(done.stdout) == [{"backbone": "no-such-model", "dtype": "float32", "failed": "save: exit 1"}]
