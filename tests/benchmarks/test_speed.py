"""benchmarks/speed.py at tiny sizes: every stage of ours timed apart, ratios against the anchor of the same run."""

import json
from importlib.util import find_spec

import pytest

from .conftest import run


@pytest.mark.slow
def test_stages_ratios_and_memory(weights, tmp_path):
    ours = f"toy:encoder={weights['encoder']},adapter={weights['toy']}"
    learned = ["mbt2018-mean"] if find_spec("compressai") else []
    arguments = ["small", "--codecs", "avif", ours, *learned, "sdxl", "--sizes", "128", "192x128", "--repeats", 1]
    run("speed.py", *arguments, "--random", "toy", "--results", tmp_path)
    result = json.loads((tmp_path / "small.json").read_text())
    rows = result["rows"]
    parts = ["encode", "decode", "entropy decode", "preview"]
    parts += ["denoiser", "adapter", "to pixels", "decode after entropy"]
    name = "toy-encoder=encoder.safetensors-adapter=toy.safetensors"
    assert [r["stage"] for r in rows if r["codec"] == name and r["width"] == 128] == parts
    assert [r["stage"] for r in rows if r["codec"] == "toy" and r["width"] == 128] == [
        "denoiser without adapter",
        *parts[4:],
    ]
    assert all(r["ms"] > 0 for r in rows) and all(20 < r["peak_mib"] < 8000 for r in rows)
    for row in rows:
        base = next(
            (r["ms"] for r in rows if r["codec"] == "avif" and all(r[k] == row[k] for k in ("stage", "width"))), None
        )
        assert row["ratio"] == (pytest.approx(row["ms"] / base, abs=1e-3) if base else None)
    assert max(r["peak_mib"] for r in rows if r["codec"] == "avif") < min(
        r["peak_mib"] for r in rows if r["codec"] == name
    )
    assert len(result["left_out"]) == 1 and result["left_out"][0].startswith("sdxl: ")


def test_nothing_to_time_is_one_line(tmp_path):
    done = run("speed.py", "none", "--results", tmp_path, ok=False)
    assert (
        done.stderr.strip().splitlines()[-1]
        == "speed.py: nothing was timed: give --codecs or --random something that runs here"
    )
