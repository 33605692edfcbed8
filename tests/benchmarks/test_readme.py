"""Every number in README.md that comes from a result file agrees with it; and the check would notice if it did not."""

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
<!-- table:mini/bd -->
old
<!-- end -->
between
<!-- table:mini/points:b -->
<!-- end -->
<!-- table:mini/plot:psnr -->
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
    assert "4 blocks and plots renewed" in readme(project).stdout
    text = (project / "README.md").read_text()
    assert "| Codec B | -31.4% (42%)* |" in text and "old" not in text
    assert text.count("| Codec B | ") == 1 + 3 and "| Codec A | 0" not in text
    assert "![PSNR against bits per pixel](benchmarks/results/mini-psnr.svg)" in text
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
    (project / "benchmarks" / "results" / "mini.json").write_text(json.dumps(result))
    (project / "README.md").write_text(
        "<!-- table:quality:mini -->\n<!-- end -->\n<!-- table:mini/ours -->\n<!-- end -->\n"
    )
    readme(project)
    main, ours = (project / "README.md").read_text().split("<!-- end -->")[:2]
    assert (
        "| against vvc | Lite1, LPIPS form | PSNR |\n" in main and "| Codec B | +32.8% (90%) | +64.3% (90%) |" in main
    )
    assert "Apart from these, ST-LPIPS (Alex) † says Codec B -39.2%. † This network" in main
    assert "| codec | against | Lite1, LPIPS form | PSNR | ST-LPIPS (Alex) † |\n" in ours and "† This network" in ours


def test_ours_against_every_anchor(project):
    (project / "README.md").write_text(
        "<!-- table:mini/ours -->\n<!-- end -->\n<!-- table:mini/bd:c -->\n<!-- end -->\n<!-- table:mini/bd:vvc -->\n<!-- end -->"
    )
    readme(project)
    ours, other, absent = (project / "README.md").read_text().split("<!-- end -->")[:3]
    lines = [line for line in ours.splitlines() if line.startswith("|")]
    assert lines == [
        "| codec | against | PSNR |",
        "| --- | --- | ---: |",
        "| Codec B | Codec A | -31.4% (42%)* |",
        "| Codec B | Codec C | -38.2% (80%) |",
    ]
    assert "| against Codec C | PSNR |" in other and "| Codec A | -5.0% (90%) |" in other and "Codec C | +" not in other
    assert absent.strip().splitlines()[-1] == "No BD-rate against vvc: it was not measured."


@pytest.mark.parametrize("change", ["number", "result", "plot"])
def test_the_check_bites(project, change):
    readme(project)
    if change == "number":
        path = project / "README.md"
        path.write_text(path.read_text().replace("-31.4%", "-41.4%"))
    elif change == "result":
        (project / "benchmarks" / "results" / "mini.json").write_text(json.dumps(RESULT).replace("-31.44", "-13.44"))
    else:
        (project / "benchmarks" / "results" / "mini-psnr.svg").write_text("<svg/>")
    assert "out of date" in readme(project, "--check", ok=False).stderr


def test_what_is_not_measured_yet_says_so(project):
    absent = "<!-- table:nothing/bd -->\n<!-- end -->\n<!-- table:mini/plot:stlpips_vgg -->\n<!-- end -->\n"
    (project / "README.md").write_text(absent)
    readme(project)
    text = (project / "README.md").read_text()
    assert "Not measured yet" in text and "Not measured: ST-LPIPS (VGG) is not in `results/mini.json`." in text
    readme(project, "--check")


def test_what_adapters_alone_can_do(project):
    levels = [{"quality": float(q), "bpp": 0.02 * (q + 1), "lite1_lpips": 0.9 - q / 10, "psnr": 22.0} for q in (0, 1)]
    row = {"backbone": "b", "trained": 1_500_000, "share": 0.25, "steps": 90, "seconds": 240, "levels": levels}
    rows = [row | {"row": "default", "bd_rate": 0.0}, row | {"row": "no LoRA", "bd_rate": None}]
    result = {"kind": "adapter", "name": "ablation", "minutes": 4.0, "images": 8, "rows": rows}
    (project / "benchmarks" / "results" / "ablation.json").write_text(json.dumps(result))
    (project / "README.md").write_text("<!-- table:ablation -->\n<!-- end -->\n")
    readme(project)
    text = (project / "README.md").read_text()
    assert "| default | b | 1.50 M | 25% | 90 | 240 | 0.900 | 0.800 | +0.0% | - |" in text
    assert "| no LoRA | b | 1.50 M | 25% | 90 | 240 | 0.900 | 0.800 | no overlap | - |" in text
    assert "Lite1, LPIPS form at 0.0200, 0.0400 bpp on 8 images" in text


def test_an_unknown_view_is_one_line(project):
    (project / "README.md").write_text("<!-- table:mini/pie -->\n<!-- end -->\n")
    assert "no such view" in readme(project, ok=False).stderr


def test_plots_are_valid_xml_with_every_codec(project):
    from xml.etree import ElementTree

    readme(project)
    root = ElementTree.parse(project / "benchmarks" / "results" / "mini-psnr.svg").getroot()
    groups = [g for g in root.iter("{http://www.w3.org/2000/svg}g") if "data-codec" in g.attrib]
    assert [g.attrib["data-codec"] for g in groups] == ["a", "b"]
    assert all(len(g.findall("{http://www.w3.org/2000/svg}circle")) == 3 for g in groups)


def test_readme_agrees_with_the_results():
    if not (ROOT / "README.md").is_file():
        pytest.skip("no README.md here")
    run("readme.py", "--check")
