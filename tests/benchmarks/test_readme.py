"""Every number on a page that comes from a result file agrees with it; and the check would notice if it did not."""

import importlib
import json

import pytest

from .conftest import ROOT, run

RESULT = {
    "kind": "rd", "name": "mini", "codecs": {"a": "Codec A", "b": "Codec B", "c": "Codec C"}, "ours": ["b"],
    "metrics": {"psnr": {"title": "PSNR", "unit": "dB", "higher_is_better": True}},
    "left_out": [], "images": [{"name": "x"}, {"name": "y"}],
    "bd_rate": [{"codec": "b", "anchor": "a", "metric": "psnr", "percent": -31.44, "overlap": 0.42},
                {"codec": "c", "anchor": "a", "metric": "psnr", "percent": 2.0, "overlap": 0.9},
                {"codec": "a", "anchor": "c", "metric": "psnr", "percent": -5.0, "overlap": 0.9},
                {"codec": "b", "anchor": "c", "metric": "psnr", "percent": -38.2, "overlap": 0.8}],
    "means": [{"codec": c, "setting": str(i), "images": 2, "bytes": 9.0, "bpp": 0.1 * 2**i, "psnr": 20.0 + i + k}
              for k, c in enumerate("ab") for i in range(3)],
    "rows": [],
}  # fmt: skip
TEXT = """# Title
<!-- table:mini/ours -->
old
<!-- end -->
between
<!-- table:mini/points:b -->
<!-- end -->
after
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "mini.json").write_text(json.dumps(RESULT))
    (tmp_path / "README.md").write_text(TEXT)
    return tmp_path


def readme(project, *words, ok=True):
    return run(
        "readme.py", *words, "--readme", project / "README.md", "--results", project / "benchmarks" / "results", ok=ok
    )


def test_blocks_are_written_and_then_agree(project):
    assert "2 blocks renewed" in readme(project).stdout
    text = (project / "README.md").read_text()
    assert "| Codec B | Codec A | -31.4% (42%)* |" in text and "old" not in text
    assert text.count("| Codec B | ") == 2 + 3 and "| Codec A | 0" not in text
    assert text.startswith("# Title\n") and "\nbetween\n" in text and text.endswith("\nafter\n")
    readme(project, "--check")
    readme(project)
    assert (project / "README.md").read_text() == text


def test_the_main_table_keeps_what_was_trained_on_apart(project):
    result = json.loads(json.dumps(RESULT))
    result["metrics"] = {"stlpips_alex": {"title": "ST-LPIPS (Alex)", "unit": "", "higher_is_better": False},
                         "psnr": {"title": "PSNR", "unit": "dB", "higher_is_better": True},
                         "lite1_lpips": {"title": "Lite1, LPIPS form", "unit": "", "higher_is_better": False}}  # fmt: skip
    result["bd_rate"] = [{"codec": "b", "anchor": "vvc", "metric": m, "percent": p, "overlap": 0.9}
                         for m, p in (("stlpips_alex", -39.2), ("psnr", 64.3), ("lite1_lpips", 32.8))]  # fmt: skip
    result["bd_rate"][1]["per_image"] = {"mean": 70.2, "error": 4.04, "overlap": 0.4, "images": 3}
    (project / "benchmarks" / "results" / "mini.json").write_text(json.dumps(result))
    (project / "README.md").write_text(
        "<!-- table:quality:mini -->\n<!-- end -->\n<!-- table:mini/ours -->\n<!-- end -->\n"
    )
    readme(project)
    main, ours = (project / "README.md").read_text().split("<!-- end -->")[:2]
    assert "| against vvc | PSNR |\n" in main and "| Codec B | +70.2 ± 4.0% (40%)* |" in main and "†" not in main
    assert "| codec | against | PSNR | Lite1, LPIPS form † | ST-LPIPS (Alex) † |\n" in ours and "† This network" in ours
    assert "standard error" in main and "-39.2% (90%)" in ours


def test_ours_against_every_anchor(project):
    (project / "README.md").write_text(
        "<!-- table:mini/ours -->\n<!-- end -->\n<!-- table:quality:mini -->\n<!-- end -->"
    )
    readme(project)
    ours, absent = (project / "README.md").read_text().split("<!-- end -->")[:2]
    lines = [line for line in ours.splitlines() if line.startswith("|")]
    assert lines == [
        "| codec | against | PSNR |",
        "| --- | --- | ---: |",
        "| Codec B | Codec A | -31.4% (42%)* |",
        "| Codec B | Codec C | -38.2% (80%) |",
    ]
    assert absent.strip().splitlines()[-1] == "No BD-rate against vvc: it was not measured."


@pytest.mark.parametrize("change", ["number", "result"])
def test_the_check_bites(project, change):
    readme(project)
    if change == "number":
        path = project / "README.md"
        path.write_text(path.read_text().replace("-31.4%", "-41.4%"))
    else:
        (project / "benchmarks" / "results" / "mini.json").write_text(json.dumps(RESULT).replace("-31.44", "-13.44"))
    assert "out of date" in readme(project, "--check", ok=False).stderr


def test_what_is_not_measured_yet_says_so(project):
    (project / "README.md").write_text("<!-- table:nothing/ours -->\n<!-- end -->\n")
    readme(project)
    assert "Not measured yet" in (project / "README.md").read_text()
    readme(project, "--check")


def test_an_unknown_view_is_one_line(project):
    (project / "README.md").write_text("<!-- table:mini/pie -->\n<!-- end -->\n")
    assert "no such view" in readme(project, ok=False).stderr


def test_readme_agrees_with_the_results():
    if not (ROOT / "README.md").is_file():
        pytest.skip("no README.md here")
    run("readme.py", "--check")


def test_every_view_is_on_a_page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("readme")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    names = [match["name"].partition(":")[0] for page in pages for match in module.BLOCK.finditer(page.read_text())]
    shown = set()
    for stem, _, view in (name.partition("/") for name in names if name not in ("quality", "bd")):
        kind = json.loads((ROOT / "benchmarks" / "results" / f"{stem}.json").read_text())["kind"]
        shown.add(f"{kind}/{view}" if view else kind)
    assert set(module.views.VIEWS) <= shown
