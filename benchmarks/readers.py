"""Torch, priorcodec-lite and JavaScript on the golden files.   python benchmarks/readers.py WHEEL [--largest PIXELS]

WHEEL: what `make lite` wrote; the page's graphs are those of `make web`, of the same export. In one run:
- lite: the wheel installed into a fresh environment: seconds, megabytes
- every golden file: symbols by all three, maps and values of those with semantic layers
- the image by torch against lite, for files of at most 2**16 pixels, those without a latent and the one of 768x512; the image
  by lite against the page in a real Chromium, for files of at most --largest pixels and these
- the commands on a file of 768x512, cold, one after the other in turn: wall clock and processor seconds, medians
- the float networks of a decode alone, torch against onnxruntime in one process, in turn
Needs node, chromium, playwright, onnxruntime (extra `export`), and some ten minutes.
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import resultfile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' golden files and readers
WEB = ROOT / "web"
LARGE = "photo-768x512-q3.25"
LARGEST = 2**16  # pixels of the images that are compared, besides the one of 768x512
TRIES = 3

SIZE = """
import importlib.metadata as m, re, sys
todo, seen = [sys.argv[1]], {}
while todo:
    name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
    if name in seen: continue
    try: found = m.distribution(name)
    except m.PackageNotFoundError: continue
    files = [file.locate() for file in found.files or []]
    seen[name] = sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")
    todo += [re.match(r"[\\w.-]+", line)[0] for line in found.requires or [] if "extra ==" not in line]
print(sum(seen.values()))
"""

LITE = """
import hashlib, json, sys
from pathlib import Path
import numpy as np, priorcodec_lite
folder, out = map(Path, sys.argv[1:])
session, images = priorcodec_lite.open_session(), json.load(sys.stdin)
symbols, regions = {}, {}
for path in sorted(folder.glob("*.gic")):
    data = path.read_bytes()
    symbols[path.stem] = session.codec.reader.read(data)[2]
    if path.stem in images:
        np.save(out / f"{path.stem}.npy", session.decode(data, output="np"))
for path in sorted((folder / "layers").glob("*.gic")):
    data = path.read_bytes()
    found = session.codec.regions(session.codec.reader.unpack(data))
    labels = np.array(found.labels.shape, "<u2").tobytes() + found.labels.tobytes()
    digests = hashlib.sha256(labels).hexdigest(), hashlib.sha256(found.values.astype("<i4").tobytes()).hexdigest()
    regions[path.stem] = dict(zip(("map_sha256", "values_sha256"), digests))
    if path.stem in images:
        np.save(out / f"{path.stem}.npy", session.decode(data, output="np"))
print(json.dumps({"symbols": symbols, "regions": regions}))
"""


def timed(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Wall clock and processor seconds of one process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": wall, "cpu_seconds": used}


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def install(wheel: Path, folder: Path, environment: dict[str, str]) -> tuple[Path, float]:
    """A fresh environment with the wheel -> its bin folder, and the seconds that pip took, without its cache."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    started = time.perf_counter()
    subprocess.run(
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir", str(wheel)],
        check=True,
        env=environment,
    )
    return folder / "bin", time.perf_counter() - started


def megabytes(python: Path | str, package: str, environment: dict[str, str]) -> float:
    """Of a package and all that it requires, as installed there."""
    done = subprocess.run(
        [str(python), "-c", SIZE, package], check=True, capture_output=True, text=True, env=environment
    )
    return round(int(done.stdout) / 1e6, 1)


def page_bytes() -> float:
    """Megabytes that a browser without WebGPU loads to encode and decode."""
    dist = WEB / "node_modules" / "onnxruntime-web" / "dist"
    files = [path for path in WEB.iterdir() if path.suffix in (".js", ".html", ".css")]
    files += [dist / f"ort{end}" for end in (".wasm.min.mjs", "-wasm-simd-threaded.mjs", "-wasm-simd-threaded.wasm")]
    unused = {"preview.onnx"}  # the decoder reads the other one
    files += [path for path in (WEB / "models").iterdir() if path.name not in unused]
    return round(sum(path.stat().st_size for path in files) / 1e6, 1)


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, format: str, *args: Any) -> None:
        pass


def in_browser(files: dict[str, bytes]) -> tuple[dict[str, np.ndarray], float]:
    """Images as the page shows them, and the seconds of `LARGE` in a new browser, from choosing it to the decoded image."""
    from playwright.sync_api import sync_playwright

    from tests.evaluation.test_report import BROWSER, FLAGS

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=WEB))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    images: dict[str, np.ndarray] = {}
    seconds = 0.0
    with sync_playwright() as tool:
        for group in ([LARGE], [name for name in files if name != LARGE]):
            chromium = tool.chromium.launch(executable_path=BROWSER, args=FLAGS)
            tab = chromium.new_page()
            tab.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            for name in group:
                started = time.perf_counter()
                tab.set_input_files("#file", {"name": f"{name}.gic", "mimeType": "", "buffer": files[name]})
                tab.wait_for_selector("#decoded:visible", timeout=600_000)
                seconds = time.perf_counter() - started if name == LARGE else seconds
                url = tab.evaluate("document.getElementById('decoded').toDataURL('image/png')")
                from PIL import Image

                with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
                    images[name] = np.asarray(image.convert("RGB"))
                print(name, "in the browser", flush=True)
            chromium.close()
    server.shutdown()
    return images, seconds


def networks_in_turn(models: Path) -> list[dict[str, Any]]:
    """Perceptual preview and decoder of one file, by torch and by onnxruntime, with 1 and 2 threads."""
    import onnxruntime  # pyright: ignore[reportMissingImports]
    import torch

    from priorcodec import open_session
    from priorcodec.backbones.diffusion import seeded_noise
    from priorcodec.export.networks import _Decoder

    session = open_session(device="cpu", dtype="float32")
    decoded = session.codec.decode((ROOT / "tests" / "golden" / f"{LARGE}.gic").read_bytes())
    quality, decoder = torch.tensor([decoded.quality]), _Decoder(session.adapter)
    y_hat, synthesis = decoded.y_hat, session.codec.transforms.g_p
    size = tuple(16 * side for side in y_hat.shape[-2:])
    noise = seeded_noise([decoded.seed], (1, *session.adapter.noise_shape(*size)), "cpu", torch.float32)(0)

    def by_torch() -> None:
        with torch.inference_mode():
            decoder(y_hat, quality, synthesis(y_hat, quality), noise)

    def by_onnxruntime(threads: int) -> Callable[[], None]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        first, second = (
            onnxruntime.InferenceSession(models / f"{name}.onnx", options, providers=providers)
            for name in ("perceptual", "decoder")
        )
        given = {"y_hat": y_hat.numpy(), "quality": quality.numpy()}

        def run() -> None:
            (preview,) = first.run(None, given)
            second.run(None, {**given, "preview": preview, "noise": noise.numpy()})

        return run

    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ways = {"torch": by_torch, "onnxruntime": by_onnxruntime(threads)}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for attempt in range(TRIES + 1):
            for name, way in ways.items():
                wall, used = time.perf_counter(), time.process_time()
                way()
                if attempt:  # the first warms up
                    times = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - used}
                    found[name].append(times)
        rows += [{"threads": threads, "by": name, **medians(times)} for name, times in found.items()]
    return rows


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("wheel", type=Path)
    cli.add_argument("--largest", type=int, default=LARGEST, help="pixels of the images that the page decodes as well")
    args = cli.parse_args()
    from priorcodec import open_session
    from tests.golden import layers
    from tests.golden.check import FOLDER, golden
    from tests.web.test_reader import area, in_javascript

    files = {name: data for name, (data, _) in golden().items()}
    known = {name: symbols for name, (_, symbols) in golden().items()}
    layered = {name: data for name, (data, _) in layers.golden().items()}
    shown = [name for name in files if area(name) <= max(LARGEST, args.largest) or name == LARGE]
    shown += [name for name in layered if name.startswith("alone")]  # rendered
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as work:
        out = Path(work, "out")
        out.mkdir()
        bin_folder, install_seconds = install(args.wheel, Path(work, "lite"), plain)
        done = subprocess.run(
            [str(bin_folder / "python"), "-c", LITE, str(FOLDER), str(out)],
            input=json.dumps(shown), stdout=subprocess.PIPE, check=True, text=True, env=plain,
        )  # fmt: skip
        by_lite = {name: np.load(out / f"{name}.npy") for name in shown}
        of_lite, of_page = json.loads(done.stdout), in_javascript(files | layered)
        symbols = {"priorcodec-lite": of_lite["symbols"]}
        symbols["JavaScript"] = {name: of_page[name].get("symbols") for name in files}
        reader, tables = layers.open_reader()
        regions = {
            "torch": {name: layers.digests(data, reader, tables) for name, data in layered.items()},
            "priorcodec-lite": of_lite["regions"],
            "JavaScript": {name: of_page[name].get("regions") for name in layered},
        }
        print("symbols read", flush=True)
        session = open_session(device="cpu", dtype="float32")
        symbols["torch"] = {name: session.codec.reader.read(data)[2] for name, data in files.items()}
        to_torch = {}
        for name in shown:
            data = files.get(name) or layered[name]
            difference = np.abs(session.decode(data, output="np").astype(int) - by_lite[name])
            to_torch[name] = (int(difference.max()), float((difference > 0).mean()))
        print("decoded by torch", flush=True)
        some = {name: data for name, data in files.items() if area(name) <= args.largest or name == LARGE}
        some |= {name: data for name, data in layered.items() if name in shown}
        by_page, page_seconds = in_browser(some)
        to_lite = {name: int(np.abs(image.astype(int) - by_lite[name]).max()) for name, image in by_page.items()}
        commands = {
            "torch": ([sys.executable, "-m", "priorcodec.cli", "decode"], dict(os.environ)),
            "priorcodec-lite": ([str(bin_folder / "gic"), "decode"], plain),
        }
        times: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(TRIES):
            for name, (command, environment) in commands.items():
                target = str(Path(work, "image.png"))
                times[name].append(
                    timed([*command, str(FOLDER / f"{LARGE}.gic"), "-o", target, "--force"], environment)
                )
        sizes = {
            "torch": megabytes(sys.executable, "priorcodec", dict(os.environ)),
            "priorcodec-lite": megabytes(bin_folder / "python", "priorcodec-lite", plain),
            "JavaScript": page_bytes(),
        }
        in_turn = networks_in_turn(WEB / "models")
    rows: list[dict[str, Any]] = [
        {
            "reader": name,
            "symbols_equal": sum(symbols[name][file] == known[file] for file in known)
            + sum(regions[name][file] == row for file, (_, row) in layers.golden().items()),
            "megabytes": sizes[name],
            **(medians(times[name]) if name in times else {"seconds": round(page_seconds, 3)}),
        }
        for name in ("torch", "priorcodec-lite", "JavaScript")
    ]
    rows[1] |= {
        "against": "torch",
        "images": len(to_torch),
        "largest_difference": max(most for most, _ in to_torch.values()),
        "values_that_differ": round(statistics.mean(share for _, share in to_torch.values()), 6),
        "install_seconds": round(install_seconds, 1),
        "wheel_megabytes": round(args.wheel.stat().st_size / 1e6, 1),
    }
    rows[2] |= {"against": "priorcodec-lite", "images": len(to_lite), "largest_difference": max(to_lite.values())}
    content = {
        "files": len(files) + len(layered),
        "file": LARGE,
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "processor": platform.machine(),
        "rows": rows,
        "networks": in_turn,
    }
    print(resultfile.write("readers", "readers", content))


if __name__ == "__main__":
    main()
