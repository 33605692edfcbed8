"""The JavaScript reader agrees with Python's: symbols of the golden files, and the line that refuses a damaged file."""

import base64
import json
import os
import re
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.container import STRUCTURE, TEXTURE
from priorcodec.core.errors import StreamError
from priorcodec.core.exact_reader import RESIDUAL_FILE, ExactReader
from priorcodec.core.image import io as image_io
from priorcodec.core.layers.semantic import SHIPPED, SemanticTables
from priorcodec.core.layers.settings import LayerConfig
from tests.fuzz import Fuzz
from tests.golden import layers
from tests.golden.check import ENCODER, golden
from tests.helpers import DEMO, node

CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.gic"))
LARGEST = 2**20  # pixels, of damaged files
DAMAGED = 250
NODE = node()

pytestmark = pytest.mark.skipif(NODE is None, reason="needs node on the PATH")


def test_the_page_keeps_all_its_parts_for_a_visit_without_a_network():
    web = Path(__file__).parents[2] / "web"
    kept = set(re.findall(r'"([\w.]+\.js)"', (web / "offline.js").read_text()))
    assert kept == {path.name for path in web.glob("*.js")} - {"offline.js"}


@pytest.fixture(scope="module")
def reader():
    return ExactReader.load(ENCODER)


def in_javascript(files, max_pixels=2**26, encoder=ENCODER):
    """Name -> outcome, all from one process."""
    tables = [encoder, ENCODER.with_name(RESIDUAL_FILE), SHIPPED]
    return in_another([NODE, Path(__file__).with_name("read.mjs"), *tables], files, max_pixels)


def in_another(command, files, max_pixels, modules=""):
    """What a reader in a process of its own makes of files; modules: a folder for its path of Python modules."""
    wanted = {"maxPixels": max_pixels, "files": {name: base64.b64encode(data).decode() for name, data in files.items()}}
    path = os.pathsep.join([str(modules), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, "PYTHONPATH": path},
        input=json.dumps(wanted), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def area(name):
    """Pixels of a golden file."""
    width, height = name.split("-")[1].split("x")
    return int(width) * int(height)


@cache
def semantic_tables():
    return SemanticTables()


def in_python(reader, data, max_pixels):
    try:
        content, outcome = reader.unpack(data, max_pixels=max_pixels), {}
        if content.string is not None:
            y_hat_q, symbols = reader.latent(content)
            outcome |= {"symbols": symbols, "sum": float(y_hat_q.sum(dtype=float))}
    except StreamError as error:
        return {"refused": str(error)}
    if content.string is None or {STRUCTURE, TEXTURE}.intersection(segment.type for segment in content.segments):
        try:
            outcome["regions"] = layers.digests(data, reader, semantic_tables())
        except StreamError as error:
            outcome["regions"] = {"refused": str(error)}
    return outcome


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_golden_file_holds_its_symbols(large, record_property):
    files = {name: known for name, known in golden().items() if (area(name) > 2**19) == large}
    found = in_javascript({name: data for name, (data, _) in files.items()})
    record_property("tries", len(files))
    assert {name: outcome.get("symbols") for name, outcome in found.items()} == {
        name: symbols for name, (_, symbols) in files.items()
    }


def test_every_golden_file_with_semantic_layers_holds_its_map_and_values(record_property):
    files = layers.golden()
    found = in_javascript({name: data for name, (data, _) in files.items()})
    record_property("tries", len(files))
    assert {name: outcome["regions"] for name, outcome in found.items()} == {
        name: digests for name, (_, digests) in files.items()
    }


def test_residuals_are_added_alike(reader):
    codec, photo = Codec(), image_io.load(DEMO).pixels[40:210, 60:260]
    configs = [
        LayerConfig(layers=("latent", "residual"), residual=level, roi=roi)
        for level, roi in ((10, []), (4, [(0, 32, 99, 50)]), (9, []))
    ]
    files = {
        f"{quality} {i}": codec.encode(photo, quality, layers=c).data
        for i, c in enumerate(configs)
        for quality in (2, 8)
    }
    found = in_javascript(files)
    assert found == {name: in_python(reader, data, 2**26) for name, data in files.items()}
    plain = in_javascript({"plain": codec.encode(photo, 2).data})["plain"]
    assert plain["symbols"] == found["2 0"]["symbols"] and plain["sum"] != found["2 0"]["sum"] != found["2 1"]["sum"]


def test_layers_are_exact_for_values_of_any_size():
    script = Path(__file__).with_name("networks.mjs")
    done = subprocess.run([NODE, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr


def damaged_files(folder):
    """The corpus for this encoder, a file cut everywhere, its header's bits flipped, and what the fuzzer makes."""
    fuzz = Fuzz(folder, "decode")
    files = {path.stem: path.read_bytes() for path in CORPUS}
    files |= {f"{path.stem}, own check": fuzz.with_checksum(path.read_bytes()[:-4]) for path in CORPUS}
    small = fuzz.with_checksum(files["segments"][:-4])
    files |= {f"cut at {end}": small[:end] for end in range(len(small))}
    for bit in range(8 * 12):
        changed = bytearray(small)
        changed[bit // 8] ^= 1 << bit % 8
        files[f"bit {bit}"] = bytes(changed)
        files[f"bit {bit}, own check"] = fuzz.with_checksum(bytes(changed[:-4]))
    files |= {f"fuzz {i}": fuzz.next(True) for i in range(DAMAGED)}
    return files | damaged_layers(files["semantic"])


def damaged_layers(data):
    """Every semantic segment cut, lengthened, changed and left out, with checks that fit."""
    content, files = container.unpack(data), {}
    for i, segment in enumerate(content.segments):
        layer = segment.data
        changes = [layer[:end] for end in (0, 1, len(layer) // 2, len(layer) - 1)] + [layer + b"\1", layer + b"\0"]
        for at in range(0, len(layer), 7):
            changed = bytearray(layer)
            changed[at] ^= 0x55
            changes.append(bytes(changed))
        for k, changed in enumerate([*changes, b"\x0b" + layer[1:]]):
            parts = [*content.segments[:i], replace(segment, data=changed), *content.segments[i + 1 :]]
            files[f"segment {segment.type}, change {k}"] = container.pack(replace(content, segments=tuple(parts)))
        rest = (*content.segments[:i], *content.segments[i + 1 :])
        files[f"without {segment.type}"] = container.pack(replace(content, segments=rest))
    return files


def test_damaged_files_have_the_outcome_that_python_gives_them(reader, tmp_path, record_property):
    damaged = damaged_files(tmp_path)
    found = in_javascript(damaged, LARGEST)
    record_property("tries", len(damaged))
    wanted = {name: in_python(reader, data, LARGEST) for name, data in damaged.items()}
    for outcome in wanted.values():
        if "refused" in outcome:  # the page reads all layers or none
            outcome["refused"] = outcome["refused"].partition(", or decode what is whole")[0]
    assert {name: (found[name], outcome) for name, outcome in wanted.items() if found[name] != outcome} == {}
    lines = [outcome["refused"] for outcome in wanted.values() if "refused" in outcome]
    assert len(set(lines)) > 20 and all("\n" not in line and len(line) < 300 for line in lines)
    assert sum("symbols" in outcome for outcome in wanted.values()) >= 10
    assert len({str(outcome["regions"].get("refused")) for outcome in wanted.values() if "regions" in outcome}) >= 5


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "shape", "values"])
def test_no_encoder_is_one_line(tmp_path, damage):
    data = ENCODER.read_bytes()
    spoilt = {
        "empty": b"",
        "cut": data[:-1],
        "header": b"\xff" * 8 + data[8:],
        "shape": data.replace(b"entropy.h_s.0.bias", b"entropy.h_s.9.bias"),
        "values": data[:-1000] + b"\xff" * 1000,
    }[damage]
    (tmp_path / "encoder").write_bytes(spoilt)
    done = subprocess.run(
        [NODE, Path(__file__).with_name("read.mjs"), tmp_path / "encoder"], input="{}", capture_output=True, text=True
    )
    assert done.returncode == 1 and "WeightsError: not the tables of an encoder (" in done.stderr
