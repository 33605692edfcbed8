"""The JavaScript writer gives the bytes that Python gives: of golden files read and written again, and of any features."""

import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from priorcodec.core import container
from priorcodec.core.container import Container
from priorcodec.core.exact_reader import ExactReader
from tests.golden.check import ENCODER, golden
from tests.web.test_reader import CORPUS, NODE, area

pytestmark = pytest.mark.skipif(NODE is None, reason="needs node on the PATH")


def in_javascript(files=None, features=()):
    files = {name: base64.b64encode(data).decode() for name, data in (files or {}).items()}
    done = subprocess.run(
        [NODE, Path(__file__).with_name("write.mjs"), ENCODER],
        input=json.dumps({"files": files, "features": list(features)}), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_golden_files_written_again_have_the_same_bytes(large, record_property):
    files = {name: data for name, (data, _) in golden().items() if (area(name) > 2**18) == large}
    if not large:  # with segments
        files |= {name: (CORPUS[0].parent / f"{name}.gic").read_bytes() for name in ("segments", "statistics", "row")}
    record_property("tries", len(files))
    found = in_javascript(files)["files"]
    assert {name: tuple(map(base64.b64decode, both)) for name, both in found.items()} == {
        name: (data, data) for name, data in files.items()
    }


def test_any_features_give_the_bytes_that_python_writes():
    """Small and large values, halves that are rounded to even, and values beyond what can be coded."""
    model, dice, wanted, features = ExactReader.load(ENCODER), np.random.default_rng(0), [], []
    for quality, (height, width), scale in (
        (0, (1, 1), 1),
        (57, (70, 130), 4),
        (176, (64, 64), 300),
        (101, (65, 40), 1e6),
    ):
        h, w = (side // 16 for side in container.padded(height, width))
        y = dice.laplace(0, scale, (model.entropy_model.m, h, w)).astype(np.float32)
        y[:, ::2] = np.round(2 * y[:, ::2] * 256) / 512
        z = dice.laplace(0, scale, (model.entropy_model.m_h, h // 4, w // 4)).astype(np.float32)
        coded = model.entropy_model.encode(y, z, quality)
        content = Container(
            encoder_id=model.encoder_id, quality=quality, height=height, width=width, string=coded.string
        )
        wanted.append({"data": container.pack(content), "symbols": coded.symbols_sha256})
        size = {"quality": quality, "height": height, "width": width, "h": h, "w": w}
        features.append(size | {"y": base64.b64encode(y).decode(), "z": base64.b64encode(z).decode()})
    found = in_javascript(features=features)["features"]
    assert [row | {"data": base64.b64decode(row["data"])} for row in found] == wanted
