"""Full-size models with random weights through the real loader, in fresh processes: benchmarks/full_size.py. Slow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
