"""Symbol hashes: one and two threads agree, a set compares to itself, and a changed symbol or file is found."""

import json

import pytest

from .conftest import run


@pytest.fixture(scope="module")
def sets(images, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("portability")
    common = ["--files", folder / "files", "--encoder", weights["encoder"], "--results", folder]
    run("portability.py", "write", "one", images, "--qualities", 0, 1.5, *common)
    run("portability.py", "read", "two", *common, "--threads", 2)
    return folder


def test_threads_do_not_change_a_symbol(sets):
    said = run("portability.py", "compare", sets / "one.json", sets / "two.json").stdout
    assert said.startswith("2 sets agree on every symbol")
    one = json.loads((sets / "one.json").read_text())
    assert [r["file"] for r in one["rows"]] == ["pic-0-q0.gic", "pic-0-q1.5.gic", "pic-1-q0.gic", "pic-1-q1.5.gic"]
    assert len({r["symbols"] for r in one["rows"]}) == 4 and all(len(r["symbols"]) == 64 for r in one["rows"])


def test_the_comparison_is_a_result_that_the_readme_shows(sets, tmp_path):
    run("portability.py", "compare", sets / "one.json", sets / "two.json", "--name", "both", "--results", tmp_path)
    both = json.loads((tmp_path / "both.json").read_text())
    assert (both["files"], [s["threads"] for s in both["sets"]]) == (4, [1, 2])
    assert [s["differ"] for s in both["sets"]] == [0, 0] and both["sets"][0]["preview_drift"] == 0
    (tmp_path / "README.md").write_text("<!-- table:both -->\n<!-- end -->\n")
    run("readme.py", "--readme", tmp_path / "README.md", "--results", tmp_path)
    rows = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| cpu")]
    assert len(rows) == 2 and all("| on |" in row and "| 0 of 4 |" in row for row in rows)


@pytest.mark.parametrize(("field", "text"), [("symbols", "gives other symbols"), ("sha256", "is another file")])
def test_a_difference_is_found(sets, tmp_path, field, text):
    other = json.loads((sets / "two.json").read_text())
    other["rows"][2][field] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(other))
    said = run("portability.py", "compare", sets / "one.json", tmp_path / "other.json", ok=False).stdout
    assert said.strip() == f"other.json: pic-1-q0.gic {text}" + (f": {'0' * 60}" if field == "symbols" else "")


def test_an_empty_folder_is_one_line(weights, tmp_path):
    done = run("portability.py", "read", "x", "--files", tmp_path, "--encoder", weights["encoder"], ok=False)
    assert done.stderr.strip().splitlines()[-1].startswith("portability.py: no .gic file in")
