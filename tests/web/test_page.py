"""The page in a real headless Chromium, served from this machine: what Python shows within one level, and clear refusals.

Needs chromium, playwright, node's onnxruntime-web in web/node_modules (`make web`) and the packages of the extra `export`.
"""

import base64
import functools
import http.server
import io
import json
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec import open_session
from priorcodec.backbones.diffusion import seeded_noise
from priorcodec.cli.layers import table
from priorcodec.core import container, tiling
from priorcodec.core.container import STRUCTURE
from priorcodec.core.exact_reader import ExactReader
from priorcodec.core.image import io as image_io
from tests.evaluation.test_report import BROWSER, DESK, FLAGS, PHONE
from tests.golden import layers
from tests.golden.check import ENCODER, golden
from tests.helpers import DEMO
from tests.web.test_reader import NODE, area

WEB = Path(__file__).parents[2] / "web"
RUNTIME = Path("node_modules", "onnxruntime-web")
FILES = golden()
LAYERS = layers.golden()
CORPUS = Path(__file__).parents[1] / "corpus"


def first(*sizes):
    return [next(name for name in FILES if f"-{size}-" in name) for size in sizes]


@pytest.mark.skipif(NODE is None, reason="needs node on the PATH")
def test_tiles_put_together_give_the_whole():
    plans = [(64, 256, 64), (2112, 1024, 64), (640, 128, 128), (4096, 192, 20), (1088, 1024, 64)]
    spans = [[[s.start, s.stop, s.low, s.high] for s in tiling.plan(*plan[:1], 64, *plan[1:]).rows] for plan in plans]
    keys = ("length", "side", "margin")
    given = [dict(zip(keys, plan, strict=True), spans=rows) for plan, rows in zip(plans, spans, strict=True)]
    done = subprocess.run(
        [NODE, Path(__file__).with_name("tiles.mjs")], input=json.dumps({"plans": given}),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr


@pytest.mark.skipif(NODE is None, reason="needs node on the PATH")
@pytest.mark.parametrize("seed, shape", [(0, (1, 4, 16, 16)), (2**32 - 1, (1, 3, 5, 7))])
def test_the_noise_is_torchs(seed, shape):
    wanted = seeded_noise([seed], shape, "cpu", torch.float32)(0).numpy()
    module = (WEB / "random.js").as_uri()
    script = f'import {{ normal }} from "{module}"; console.log(JSON.stringify([...normal({seed}, {wanted.size})]));'
    done = subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60)
    np.testing.assert_allclose(np.reshape(json.loads(done.stdout), shape), wanted, rtol=0, atol=1e-5)


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def session():
    return open_session("toy", device="cpu", dtype="float32", tile=0)


@pytest.fixture(scope="module")
def site(session, tmp_path_factory):
    """Address of the page with the toy's models."""
    if BROWSER is None:
        pytest.skip("no chromium on the PATH")
    if not (WEB / RUNTIME).exists():
        pytest.skip(f"no web/{RUNTIME}: run make web")
    for name in ("playwright", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from priorcodec.export.manifest import export

    folder = tmp_path_factory.mktemp("site")
    for path in WEB.iterdir():
        if path.suffix in (".js", ".css", ".html"):
            shutil.copy(path, folder)
    (folder / RUNTIME).mkdir(parents=True)
    (folder / RUNTIME / "dist").symlink_to(WEB.resolve() / RUNTIME / "dist")
    export(session, folder / "models")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()


@pytest.fixture
def tab(site, request):
    """The page at one width; fails the test on any script error, and on any request to another place."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=BROWSER, args=FLAGS)
        tab, errors = chromium.new_page(**request.param), []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda text: errors.append(text.text) if text.type in ("error", "warning") else None)
        elsewhere = []
        tab.on("request", lambda asked: elsewhere.append(asked.url))
        tab.goto(site)
        yield tab
        chromium.close()
    assert errors == [] and [url for url in elsewhere if not url.startswith((site[:-10], "blob:", "data:"))] == []


def shown(tab, kind):
    """Pixels of a canvas."""
    url = tab.evaluate(f"document.getElementById('{kind}').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def give(tab, name, data):
    tab.set_input_files("#file", {"name": name, "mimeType": "", "buffer": data})
    finished(tab)


def finished(tab):
    tab.wait_for_selector("#error:visible, #decoded:visible", timeout=240_000)
    tab.wait_for_selector("#status:empty", state="attached", timeout=240_000)


@pytest.mark.slow
@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_it_shows_what_python_decodes(tab, session):
    for name in first("384x256", "1x1", "257x65"):
        data = FILES[name][0]
        give(tab, f"{name}.gic", data)
        assert FILES[name][1][:16] in tab.inner_text("#facts") and f"{len(data):,} bytes" in tab.inner_text("#facts")
        for kind, wanted in (
            ("preview", session.preview(data, output="np", perceptual=True)),
            ("decoded", session.decode(data, output="np")),
        ):
            got = shown(tab, kind)
            assert got.shape == wanted.shape
            assert np.abs(got.astype(int) - wanted).max() <= 1, (name, kind)


def listed(tab):
    """Rows of the table of regions: number, percent, label color, mean color if there is one."""
    return tab.evaluate("""() => [...document.querySelectorAll("#areas tr")].slice(1).map((line) => [
      ...[...line.cells].slice(0, 2).map((cell) => parseFloat(cell.innerText)),
      ...[...line.querySelectorAll(".swatch")].map((part) => getComputedStyle(part).backgroundColor),
    ])""")


def rgb(color):
    """#rrggbb -> as browsers write it."""
    return f"rgb({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))})"


def seen(tab):
    """The images as they look, with what lies over them."""
    png = tab.locator("#stack").screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_a_file_without_a_latent_and_its_regions(tab, session):
    for name in ("alone", "alone-pixel"):
        data = LAYERS[name][0]
        give(tab, f"{name}.gic", data)
        for kind, wanted in (
            ("preview", session.preview(data, output="np")),
            ("decoded", session.decode(data, output="np")),
        ):
            assert np.abs(shown(tab, kind).astype(int) - wanted).max() <= 1, (name, kind)
        rows = sorted(table(session.codec.regions(container.unpack(data))), key=lambda row: -row["area_percent"])
        found = listed(tab)
        assert [line[1] for line in found] == pytest.approx([row["area_percent"] for row in rows], abs=0.11)  # rounded
        assert [[line[0], *line[2:]] for line in found] == [
            [row["region"], rgb(row["label"]), rgb(row["mean_color"])] for row in rows
        ]
        assert f"Show {len(rows)} region" in tab.inner_text("#toggle")
        assert "structure" in tab.inner_text("#facts") and "Symbols" not in tab.inner_text("#facts")


@pytest.mark.slow
@pytest.mark.parametrize("tab", [PHONE], indirect=True)
def test_regions_lie_over_the_image_when_they_are_wanted(tab, session):
    """Of a file with a map, and of one whose map is derived from its latent; by keyboard."""
    for name, origin in (("beside", "written in the file"), ("derived", "derived from")):
        data = LAYERS[name][0]
        give(tab, f"{name}.gic", data)
        assert origin in tab.inner_text("#toggle") and not tab.is_visible("#regions")
        before = seen(tab)
        tab.focus("#shown")
        tab.keyboard.press("Space")
        assert tab.is_visible("#areas") and tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = session.codec.regions(container.unpack(data))
        assert len(listed(tab)) == found.count
        after, labels = seen(tab), shown(tab, "regions")
        middle = labels[8::16, 8::16]  # the filling of whole cells
        rows, columns = middle.shape[:2]
        one = {label: middle[found.labels[:rows, :columns] == label] for label in range(found.count)}
        means = [pixels.mean(0) for pixels in one.values() if len(pixels)]
        assert all(np.abs(pixels - pixels[:1].astype(int)).max() <= 3 for pixels in one.values() if len(pixels))
        assert len({tuple(mean.round()) for mean in means}) == len(means)
        assert (np.abs(after - before).max(-1) > 8).mean() > 0.8
        tab.keyboard.press("Space")
        assert np.array_equal(seen(tab), before) and not tab.is_visible("#areas")


@pytest.mark.slow
@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_damaged_layers_are_one_line_beside_an_image_and_in_place_of_one(tab):
    give(tab, "structure.gic", (CORPUS / "structure.gic").read_bytes())
    line = tab.inner_text("#error")
    assert "no texture layer: there is no image" in line and "\n" not in line and not tab.is_visible("#view")
    content = container.unpack(LAYERS["beside"][0])
    parts = [replace(s, data=s.data[:-1]) if s.type == STRUCTURE else s for s in content.segments]
    give(tab, "beside.gic", container.pack(replace(content, segments=tuple(parts))))
    assert tab.is_visible("#decoded") and not tab.is_visible("#error") and not tab.is_visible("#toggle")
    assert "a layer does not end where its content ends" in tab.inner_text("#facts")


@pytest.mark.slow
@pytest.mark.parametrize("tab", [PHONE], indirect=True)
def test_a_phone_in_the_dark(tab):
    (name,) = first("384x256")
    give(tab, f"{name}.gic", FILES[name][0])
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.eval_on_selector(":root", "e => getComputedStyle(e).backgroundColor") == "rgb(22, 22, 22)"
    tab.focus("#split")
    tab.keyboard.press("End")
    assert tab.eval_on_selector("#decoded", "e => e.style.clipPath") == "inset(0px 0px 0px 100%)"
    assert tab.get_attribute("#save", "download") == f"{name}.png"


@pytest.mark.slow
@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_a_damaged_file_is_one_line_and_the_next_one_works(tab):
    (name,) = first("64x64")
    data = FILES[name][0]
    give(tab, f"{name}.gic", data[:-1])
    line = tab.inner_text("#error")
    assert "damaged or cut short" in line and "\n" not in line and not tab.is_visible("#view")
    give(tab, f"{name}.gic", data)
    assert not tab.is_visible("#error") and tab.is_visible("#decoded")


@pytest.mark.slow
@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_a_photograph_becomes_a_file_that_python_reads_alike(tab, session):
    photo = image_io.load(DEMO).pixels[:200, :270]
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    give(tab, "photo.png", file.getvalue())
    assert np.array_equal(shown(tab, "original"), photo) and tab.get_attribute("#gic", "download") == "photo.gic"
    for quality in (6, 2):
        if quality != 6:  # again, by keyboard
            tab.focus("#quality")
            tab.keyboard.press("Home")
            for _ in range(4 * quality):
                tab.keyboard.press("ArrowRight")
            tab.wait_for_selector(f"dd:text-is('{quality} of 11')", timeout=240_000)
            finished(tab)
        data, wanted = saved(tab), session.encode(photo, quality)
        assert container.unpack(data).quality == 16 * quality and abs(len(data) - len(wanted)) <= 8
        one, other = (ExactReader.load(ENCODER).read(each)[1] for each in (data, wanted))
        assert np.mean(one != other) < 0.01  # symbols are chosen in floating point
        assert np.abs(shown(tab, "decoded").astype(int) - session.decode(data, output="np")).max() <= 1
    assert tab.inner_text("#left") == "Original"


def saved(tab):
    """The .gic file that the page offers."""
    with tab.expect_download() as download:
        tab.click("#gic")
    return Path(download.value.path()).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_it_works_again_without_a_network(tab):
    one, other = first("384x256", "64x64")
    tab.evaluate("""() => new Promise((done) => {
      const { serviceWorker } = navigator;
      if (serviceWorker.controller) done();
      else serviceWorker.addEventListener("controllerchange", () => done());
    })""")
    give(tab, f"{one}.gic", FILES[one][0])  # on the first visit
    assert tab.is_visible("#decoded")
    tab.context.set_offline(True)
    tab.reload()
    give(tab, f"{other}.gic", FILES[other][0])
    assert tab.is_visible("#decoded") and FILES[other][1][:16] in tab.inner_text("#facts")


@pytest.mark.slow
@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_what_is_no_image_is_one_line(tab):
    give(tab, "notes.txt", b"no image")
    assert "neither a .gic file nor an image" in tab.inner_text("#error") and "\n" not in tab.inner_text("#error")
    Image.new("1", (8193, 8192)).save(large := io.BytesIO(), "PNG")
    give(tab, "large.png", large.getvalue())
    assert "more than the 67,108,864" in tab.inner_text("#error") and not tab.is_visible("#original")
    Image.new("L", (66_000, 1)).save(wide := io.BytesIO(), "PNG")
    give(tab, "wide.png", wide.getvalue())
    assert "width is 66000, wanted a whole number from 1 to 65535" in tab.inner_text("#error") and not tab.is_visible(
        "#gic"
    )


@pytest.mark.slow
@pytest.mark.parametrize("tab", [DESK], indirect=True)
def test_every_golden_file_holds_its_symbols_in_the_browser(tab, record_property):
    small = {name: row for name, row in FILES.items() if area(name) <= 2**17}
    tab.evaluate("""async () => {
      const { Reader } = await import("./gic.js");
      const answer = await fetch("models/tables.safetensors");
      window.reader = await Reader.load(new Uint8Array(await answer.arrayBuffer()));
    }""")
    read = "data => reader.read(Uint8Array.from(atob(data), c => c.charCodeAt(0))).symbolsSha256"
    found = {name: tab.evaluate(read, base64.b64encode(data).decode()) for name, (data, _) in small.items()}
    record_property("tries", len(small))
    assert found == {name: symbols for name, (_, symbols) in small.items()}
