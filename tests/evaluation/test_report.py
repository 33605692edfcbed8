"""The report page: self-contained, the digits of its result file, and alive in a real headless Chromium."""

import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from priorcodec.core.errors import ConfigError
from priorcodec.evaluation import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
RATES = {"ours": (400, 900, 2000, 4100), "vvc": (380, 1000, 2500), "avif": (1200, 4000)}


def result() -> dict:
    metrics = {
        "psnr": {"title": "PSNR", "unit": "dB", "higher_is_better": True},
        "stlpips_alex": {"title": "ST-LPIPS (Alex)", "unit": "", "higher_is_better": False},
    }
    rows = [
        {"codec": codec, "setting": str(i), "image": name, "bytes": size + k, "bpp": round(8 * (size + k) / 24576, 6),
         "psnr": round(20 + 3.123456 * i + k, 6), "stlpips_alex": round(0.5 - 0.1 * i, 6)}
        for codec, sizes in RATES.items() for i, size in enumerate(sizes) for k, name in enumerate(("cat", "dog"))
    ]  # fmt: skip
    pairs = (("ours", "vvc"), ("avif", "vvc"), ("ours", "avif"), ("vvc", "avif"))
    bd = [{"codec": c, "anchor": a, "metric": m, "percent": -12.34, "overlap": 0.9} for c, a in pairs for m in metrics]
    from priorcodec.evaluation.bd_rate import means

    return {
        "kind": "rd", "name": "pets", "command": "python benchmarks/rd.py pets <&>", "versions": {"python": "3.11"},
        "machine": {"cpus": 2}, "codecs": {"ours": "Ours </script>", "vvc": "VVC", "avif": "AVIF"}, "ours": ["ours"],
        "metrics": metrics, "left_out": ["DISTS: no weights"], "bd_rate": bd, "means": means(rows),
        "images": [{"name": n, "width": 192, "height": 128} for n in ("cat", "dog")], "rows": rows,
    }  # fmt: skip


SPEED = {
    "kind": "speed", "name": "speed", "command": "python benchmarks/speed.py", "versions": {}, "machine": {"cpus": 2},
    "codecs": {"ours": "Ours"}, "settings": {"repeats": 3, "threads": 1, "anchor": "avif"},
    "rows": [{"codec": "ours", "stage": "encode", "device": "cpu", "width": 256, "height": 256, "ms": 41.2,
              "peak_mib": 300, "ratio": 0.33}],
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "results").mkdir()
    (folder / "results" / "pets.json").write_text(json.dumps(result()))
    (folder / "results" / "speed.json").write_text(json.dumps(SPEED))
    rng = np.random.default_rng(0)
    for row in [*result()["rows"], *({"codec": "original", "setting": "", "image": n} for n in ("cat", "dog"))]:
        small = Image.fromarray(rng.integers(0, 256, (4, 6, 3)).astype(np.uint8))
        path = folder / "kept" / row["codec"] / row["setting"] / f"{row['image']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((192, 128), Image.Resampling.NEAREST).save(path)
    report.build([folder / "results"], folder / "report.html", images=folder / "kept")
    return folder / "report.html"


def embedded(page) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1])


def test_nothing_is_loaded_from_elsewhere(page):
    text = page.read_text()
    assert not re.search(r"https?:|url\(|@import|<link", text)
    assert all(source.startswith("data:image/webp;base64,") for source in embedded(page)["embedded"])


def test_digits_are_those_of_the_result_file(page):
    rows = {(r["codec"], r["setting"], r["image"]): r for r in result()["rows"]}
    seen = 0
    for image in embedded(page)["images"]:
        for rate in image["rates"]:
            for version in rate["versions"][1:]:
                row = rows[version["codec"], version["setting"], image["name"]]
                assert {k: version[k] for k in ("bytes", "bpp", "psnr", "stlpips_alex")} == {
                    k: row[k] for k in ("bytes", "bpp", "psnr", "stlpips_alex")
                }
                seen += 1
    assert seen == 2 * 3 * 3


def test_other_codecs_come_at_the_nearest_size(page):
    image = embedded(page)["images"][0]
    got = [[v["bytes"] for v in rate["versions"][1:]] for rate in image["rates"]]
    assert got == [[400, 380, 1200], [2000, 2500, 1200], [4100, 2500, 4000]]


def test_tables_and_plots(page):
    text = page.read_text()
    assert text.count("-12.3% (90%)") == 8 and text.count("Rate at equal quality") == 1
    assert "<th>against VVC</th>" in text and "<th>against AVIF</th>" in text
    assert "41.2 (0.33x)" in re.search(r"Ours, encode.*?</tr>", text, re.S)[0]
    plots = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    curves = [{group.get("data-codec"): len(group.findall("circle")) for group in plot.iter("g")} for plot in plots]
    assert curves == 2 * [{codec: len(sizes) for codec, sizes in RATES.items()}]
    assert "lower is better" in text and "Left out: DISTS" in text
    assert "Ours </script>" not in text and "Ours &lt;/script&gt;" in text


def test_without_images_there_is_no_slider(page, tmp_path):
    report.build([page.parent / "results"], tmp_path / "plain.html")
    assert 'id="viewer"' not in (tmp_path / "plain.html").read_text()


@pytest.mark.parametrize("key", ["bd_rate", "codecs", "images", "machine", "means", "metrics", "name", "versions"])
def test_a_result_file_with_a_field_of_the_wrong_kind_is_one_line(tmp_path, key):
    (tmp_path / "odd.json").write_text(json.dumps(result() | {key: None}))
    with pytest.raises(ConfigError, match="a result file has a field of the wrong kind") as caught:
        report.build([tmp_path], tmp_path / "x.html")
    assert "\n" not in str(caught.value) and not (tmp_path / "x.html").exists()


def test_the_name_of_a_result_is_text(tmp_path):
    (tmp_path / "odd.json").write_text(json.dumps(result() | {"name": "<script>alert(1)</script>"}))
    report.build([tmp_path / "odd.json"], tmp_path / "x.html")
    assert "<script>alert" not in (tmp_path / "x.html").read_text()


def test_a_result_file_that_is_not_whole_is_named(tmp_path):
    (tmp_path / "half.json").write_text('{"kind": "rd", "rows": []}')
    with pytest.raises(ConfigError, match="half.json: not a whole result file, it lacks bd_rate, codecs"):
        report.build([tmp_path], tmp_path / "x.html")
    (tmp_path / "half.json").write_text("[" * 200_000)
    with pytest.raises(ConfigError, match="half.json: not a readable result file"):
        report.build([tmp_path], tmp_path / "x.html")


def test_a_metric_of_no_image_has_no_plot(tmp_path):
    small = result()
    for mean in small["means"]:
        mean["psnr"] = None
    (tmp_path / "pets.json").write_text(json.dumps(small))
    report.build([tmp_path], tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text().count("<svg") == 1


def test_nothing_to_report_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no result file of kind rd, speed"):
        report.build([tmp_path], tmp_path / "x.html")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="bad.json: not a readable result file"):
        report.build([tmp_path], tmp_path / "x.html")


def test_the_command_writes_the_same_page(page, tmp_path):
    from typer.testing import CliRunner

    from priorcodec.cli import app

    words = [page.parent / "results", "-o", tmp_path / "r.html", "--images", page.parent / "kept"]
    done = CliRunner().invoke(app, ["report", *map(str, words)])
    assert done.exit_code == 0 and (tmp_path / "r.html").read_text() == page.read_text()


def test_nothing_but_the_page_goes_to_standard_output(page, tmp_path):
    for output in ("-", "/dev/stdout"):
        words = [page.parent / "results", "-o", output, "--images", page.parent / "kept"]
        command = [sys.executable, "-m", "priorcodec.cli", "report", *map(str, words)]
        with (tmp_path / "out.html").open("wb") as out:
            subprocess.run(command, check=True, stdout=out)
        assert (tmp_path / "out.html").read_text() == page.read_text()


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright drives the browser")
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser, page, request):
    """The page, offline, at one width; fails the test on any script error."""
    context = browser.new_context(offline=True, **request.param)
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    tab.goto(page.as_uri())
    yield tab
    context.close()
    assert errors == []


DESK = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True, "is_mobile": True}


def cut(tab) -> float:
    """Left edge of the right-hand image, as a part of the stage's width."""
    style = tab.eval_on_selector("#stage img + img", "e => [getComputedStyle(e).clipPath, e.clientWidth]")
    return float(re.findall(r"[\d.]+", style[0])[-1]) / style[1]


@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_keyboard_slider_and_zoom(tab):
    assert cut(tab) == pytest.approx(0.5, abs=0.01)
    for _ in range(5):
        tab.keyboard.press("ArrowRight")
    assert cut(tab) == pytest.approx(0.6, abs=0.01)
    box = tab.locator("#stage").bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    tab.mouse.up()
    assert cut(tab) == pytest.approx(0.25, abs=0.01)
    before = tab.locator("#stage img").first.get_attribute("src")
    tab.keyboard.press("n")
    assert tab.locator("#stage img").first.get_attribute("src") != before
    assert tab.locator("#images button[aria-pressed=true]").inner_text() == "dog"
    tab.keyboard.press("3")
    assert tab.locator("#tag-right").inner_text().startswith("VVC (0), 381 bytes")
    tab.keyboard.press("r")
    assert "2,501 bytes" in tab.locator("#tag-right").inner_text()
    width = tab.locator("#stage").bounding_box()["width"]
    for _ in range(3):
        tab.keyboard.press("z")
    assert tab.locator("#stage").bounding_box()["width"] == 4 * 192 != width
    tab.keyboard.press("x")
    assert tab.locator("#tag-left").inner_text().startswith("VVC")


@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_legend_hides_a_curve(tab):
    tab.locator(".legend button", has_text="AVIF").click()
    assert tab.locator('svg [data-codec="avif"]').first.is_hidden()
    assert tab.locator('svg [data-codec="vvc"]').first.is_visible()


@pytest.mark.parametrize("tab", [PHONE], indirect=True)
def test_phone_in_the_dark(tab):
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", color)[:3])) < 40
    assert tab.locator("#viewer").bounding_box()["width"] > 300
    small = [b for b in tab.locator("button:visible").all() if b.bounding_box()["height"] < 30]
    assert small == []
    tab.locator("#cut").fill("900")
    assert cut(tab) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_images_are_decoded_by_the_browser(tab):
    tab.wait_for_function("[...document.querySelectorAll('#stage img')].every(i => i.naturalWidth === 192)")
