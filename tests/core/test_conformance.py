"""The golden files hold their symbols under every setting of `tests/golden/check.py`; a float hyper-decoder's would not."""

import json
import subprocess
import sys

import pytest
import torch

from priorcodec.core import container
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.exact_reader import ExactReader
from tests.golden.check import ENCODER, FOLDER, SETTINGS, disagreements, golden, run

ON_A_CPU = [name for name, setting in SETTINGS.items() if setting.torch != "cuda"]
FILES = golden()
CONTENTS = {name: container.unpack(data) for name, (data, _) in FILES.items()}
LARGE = {name: FILES[name] for name, content in CONTENTS.items() if content.height * content.width >= 200_000}


@pytest.fixture(scope="module")
def reader():
    return ExactReader.load(ENCODER)


def test_the_set_is_what_it_should_be(reader):
    assert len(FILES) >= 40 and {path.stem for path in FOLDER.glob("*.gic")} == set(FILES)
    assert sum(len(data) for data, _ in FILES.values()) < 600_000
    assert len({symbols for _, symbols in FILES.values()}) == len(FILES)
    assert {content.encoder_id for content in CONTENTS.values()} == {reader.encoder_id}
    assert {row["encoder"] for row in json.loads((FOLDER / "symbols.json").read_text()).values()} == {
        f"{reader.encoder_id:08x}"
    }
    qualities = {content.quality for content in CONTENTS.values()}
    assert qualities >= {QUALITY_STEPS * level for level in range(reader.levels)}
    assert sum(quality % QUALITY_STEPS != 0 for quality in qualities) >= 8
    sizes = {(content.width, content.height) for content in CONTENTS.values()}
    assert sizes >= {(1, 1), (2049, 1025), (1025, 2049), (257, 65)} and len(sizes) >= 30
    kinds = [name.partition("-")[0] for name in FILES]
    assert min(kinds.count(kind) for kind in ("photo", "generated", "flat", "gradient", "noise", "text")) >= 5


def test_every_file_holds_its_symbols(reader, record_property):
    record_property("tries", len(FILES))
    assert disagreements(reader, FILES) == []


@pytest.mark.parametrize("name", ON_A_CPU)
def test_no_setting_changes_a_symbol(name, record_property):
    record_property("tries", len(FILES))
    row = run(name)
    assert row["files"] == len(FILES) and row["differ"] == []
    assert (row["version"] is None) == (SETTINGS[name].torch == "blocked")


def test_the_script_itself():
    done = subprocess.run(
        [sys.executable, FOLDER / "check.py", "1 thread", "2 threads"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"(no torch): {len(FILES)} files, all agree") == 2


@pytest.mark.gpu
def test_a_gpu_changes_no_symbol(record_property):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    record_property("tries", len(FILES))
    assert run("torch, GPU")["differ"] == []


FLOAT = """
import json, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {root!r})
from priorcodec.core.entropy import exact
from tests.golden.check import ENCODER, disagreements
from priorcodec.core.exact_reader import ExactReader

def product(self, columns):  # as most learned codecs have it: float32, and nothing rounded on the way to the last layer
    total = columns.astype(np.float32) @ self.matrix.astype(np.float32) + self.bias.astype(np.float32)
    return np.clip(total / np.float32(1 << exact.WEIGHT_BITS), self.low, exact.LIMIT)

exact.ExactLayer.product = product
reader = ExactReader.load(ENCODER)
files = {{name: (Path(path).read_bytes(), digest) for name, (path, digest) in json.loads(sys.argv[3]).items()}}
print(json.dumps({{"differ": disagreements(reader, files)}}))
"""


WRITE = (
    FLOAT[: FLOAT.index("files =")]
    + """
from tests.golden.check import golden
from priorcodec.core import container
known = {{}}
for name in json.loads(sys.argv[3]):
    content = container.unpack(golden()[name][0])
    h, w = (side // 16 for side in container.padded(content.height, content.width))
    dice = np.random.default_rng(h * w)
    y = dice.laplace(size=(112, h, w)) * np.exp(dice.normal(size=(112, 1, 1)))
    coded = reader.entropy_model.encode(y.astype(np.float32), dice.normal(size=(64, h // 4, w // 4)).astype(np.float32), 96)
    content = container.Container(
        encoder_id=reader.encoder_id, quality=96, height=content.height, width=content.width, string=coded.string
    )
    path = Path({folder!r}) / f"{{name}}.gic"
    path.write_bytes(container.pack(content))
    known[name] = str(path), coded.symbols_sha256
print(json.dumps({{"known": known}}))
"""
)


def test_a_float_hyper_decoder_fails_somewhere(reader, tmp_path, pytestconfig, record_property):
    """The same harness finds what it looks for: where it was written such a file reads, with other kernels of the library not."""
    script, known = tmp_path / "float.py", {}
    script.write_text(FLOAT.format(root=str(pytestconfig.rootpath)))
    writer = tmp_path / "write.py"
    writer.write_text(WRITE.format(root=str(pytestconfig.rootpath), folder=str(tmp_path)))
    known = run("1 thread", str(writer), json.dumps(sorted(LARGE)))["known"]
    assert run("1 thread", str(script), json.dumps(known))["differ"] == []
    wrong = {name: run(name, str(script), json.dumps(known))["differ"] for name in ON_A_CPU if "kernels" in name}
    record_property("found", {name: f"{len(found)} of {len(known)}" for name, found in wrong.items()})
    assert any(wrong.values()), wrong
