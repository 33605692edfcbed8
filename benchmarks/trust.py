"""How often was every promise of docs/trust.md tried, and how often broken?   python benchmarks/trust.py [WORD...]

    promise --pytest, slow tests too--> tries (a test's own count, else one each), failures, what was left out
    tests/fuzz.py until --executions in all (it goes on where it stopped)--> tries, crashes
    tests/golden/check.py in another environment (--old PYTHON)--> tries, files that differ
Writes results/trust.json after every row; rows that no WORD names are kept as they were. Exit status 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import resultfile

ROOT = resultfile.RESULTS.parents[1]
CONFORMANCE, BYTES, WEIGHTS = (
    "tests/core/test_conformance.py",
    "tests/core/test_hostile_bytes.py",
    "tests/core/test_hostile_weights.py",
)
PLUGINS, CRASHES, PROCESSES, TOGETHER = (
    "tests/registry/test_faulty_plugins.py",
    "tests/batch/test_crashes.py",
    "tests/batch/test_processes.py",
    "tests/test_together.py",
)
OUTPUTS = "tests/core/io tests/cli tests/lite"
PROMISES = {  # what is promised -> its tests, and the words that choose among them
    "same symbols: 1 and 2 threads, mkldnn on and off, default dtype float64, bf16 autocast": (CONFORMANCE, "symbol and not gpu"),
    "same symbols: on a GPU in float32, bf16 autocast, TF32": (CONFORMANCE, "gpu"),
    "a float hyper-decoder fails in the same harness": (CONFORMANCE, "float_hyper"),
    "cut at every byte, every bit flipped: refused in one line": (BYTES, "cut_at or single_bit"),
    "every bit flipped under a corrected checksum: decoded or refused": (BYTES, "good_checksum"),
    "bombs, concatenated and nested files: within 1 s and 200 MiB": (BYTES, "bombs or concatenated or ask_for_more or process"),
    "images whose sizes and counts are bombs: within 2 s and 300 MiB": ("tests/core/image/test_hostile_images.py", ""),
    "flat, saturated, one-pixel, one-row, noisy images at all levels": ("tests/core/test_extremes.py", ""),
    "what overflows float16 is decoded in float32, or is one line": ("tests/test_overflow.py", ""),
    "no pickle is ever loaded": (WEIGHTS, "pickle or bomb"),
    "weights and configs that do not fit are refused in one line": (WEIGHTS, "not pickle and not bomb"),
    "adapters on the Hub are pinned by commit and hash": ("tests/registry/test_adapter_sources.py", ""),
    "a plugin that raises in a hook or in build is named and stops no other": (PLUGINS, ""),
    "no room on the disk: one line, the old file stays": ("tests/core/io " + CRASHES, "half_way or full_disk or no_room"),
    "nothing is replaced without --force, and an input never": (OUTPUTS, "replace or appears or output_is_checked"),
    "SIGKILL, SIGTERM, Ctrl-C at random moments: old files or new ones": (CRASHES, "kills"),
    "started again, a run does what is missing": (CRASHES, "again"),
    "a worker of --workers that is killed loses no file; Ctrl-C stops all of them": (PROCESSES, "killed or control_c"),
    "on Ray, 200 images, one worker killed half way: none lost, none written twice": ("tests/batch/test_ray.py", ""),
    "8 threads with one session, 4 processes on one folder: the same bytes and images": (TOGETHER, ""),
}  # fmt: skip


def tried(tests: str, words: str) -> dict[str, Any]:
    """Runs the tests -> {tries, failures, left_out, seconds}."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-o", "addopts=--import-mode=importlib", f"--junitxml={report}", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, *tests.split(), *(["-k", words] if words else [])]
        started = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            sys.exit(
                f"trust.py: {tests}: pytest ended with {done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}"
            )
        cases = list(ElementTree.parse(report).iter("testcase"))
    row: dict[str, Any] = {"tries": 0, "failures": 0, "left_out": 0, "seconds": round(time.monotonic() - started)}
    for case in cases:
        kinds = {child.tag for child in case}
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        row["left_out"] += "skipped" in kinds
        row["failures"] += bool(kinds & {"failure", "error"})
        row["tries"] += 0 if "skipped" in kinds else int(properties.get("tries") or 1)
        row |= {"found": properties["found"]} if "found" in properties else {}
    return row


def fuzzed(state: Path, until: int) -> list[dict[str, Any]]:
    """Lets the fuzzer run until it has done so many executions in all -> a row for each of its targets."""
    command = [sys.executable, "tests/fuzz.py", "--state", str(state), "--executions", str(until)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while (done := subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)).returncode < 0:
        pass  # it died: the next run counts the input as a crash and goes on
    if done.returncode not in (0, 1):
        sys.exit(f"trust.py: tests/fuzz.py ended with {done.returncode}: {done.stderr[-300:].decode(errors='replace')}")
    counts = json.loads((state / "state.json").read_text())
    row = {"test": "tests/fuzz.py", "failures": counts["crashes"], "left_out": 0, "seconds": round(counts["seconds"])}
    words = {
        "info": "any bytes through `info`: a description or one line",
        "decode": "any bytes up to the symbols: symbols or one line",
    }
    return [{"promise": words[kind], **row, "tries": tries} for kind, tries in counts["executions"].items()]


def elsewhere(python: str) -> list[dict[str, Any]]:
    """The golden files in another environment."""
    started = time.monotonic()
    command, environment = [python, "tests/golden/check.py", "--json"], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"trust.py: {python} tests/golden/check.py ended with {done.returncode}: {done.stderr[-300:]}")
    rows = json.loads(done.stdout.splitlines()[-1])
    count = {"tries": sum(r["files"] for r in rows), "failures": sum(len(r["differ"]) for r in rows), "left_out": 0}
    settings = ", ".join(r["setting"] for r in rows)
    version = next((r["version"] for r in rows if r["version"]), "none")
    promise = f"same symbols with torch {version}: {settings}"
    return [
        {"promise": promise, "test": "tests/golden/check.py", **count, "seconds": round(time.monotonic() - started)}
    ]


def main() -> int:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="only promises whose text, tests or choice of tests has one of these; default all",
    )
    cli.add_argument("--old", metavar="PYTHON", help="interpreter of an environment with another torch")
    cli.add_argument("--executions", type=int, default=0, help="fuzz until so many are done in all")
    cli.add_argument("--state", type=Path, default=ROOT / "runs" / "fuzz", help="of the fuzzer")
    cli.add_argument("--results", type=Path, default=resultfile.RESULTS)
    given = cli.parse_args()
    path = given.results / "trust.json"
    rows = {row["promise"]: row for row in json.loads(path.read_text())["rows"]} if path.is_file() else {}

    def keep(row: dict[str, Any]) -> None:
        rows[row["promise"]] = row
        print(
            f"{row['tries']} tries, {row['failures']} failures, {row['left_out']} left out: {row['promise']}",
            flush=True,
        )
        resultfile.write("trust", "trust", {"rows": list(rows.values())}, folder=given.results)

    for promise, (tests, words) in PROMISES.items():
        if not given.words or any(word in f"{promise} {tests} {words}" for word in given.words):
            keep({"promise": promise, "test": tests, **tried(tests, words)})
    for row in elsewhere(given.old) if given.old else []:
        keep(row)
    for row in fuzzed(given.state, given.executions) if given.executions else []:
        keep(row)
    return 1 if any(row["failures"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
