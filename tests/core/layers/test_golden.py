"""Golden files with semantic layers keep their maps and values, without torch and in the second reader."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from priorcodec.core import container
from priorcodec.core.container import STRUCTURE, TEXTURE
from priorcodec.core.layers import structure
from tests.core.entropy.reference import Encoder, decode
from tests.core.layers import reference
from tests.golden import layers

FILES = layers.golden()
BLOCKED = """
import json, sys
sys.modules["torch"] = None
from tests.golden import layers
reader, tables = layers.open_reader()
print(json.dumps({name: layers.digests(data, reader, tables) for name, (data, _) in layers.golden().items()}))
"""


def test_files_are_read_without_torch():
    out = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == {name: row for name, (_, row) in FILES.items()}
    assert len(FILES) == len(layers.CASES)


@pytest.mark.parametrize(
    "name", [name for name in FILES if not name.startswith("derived") or name == "derived-generated"]
)
def test_second_reader(name):
    data, row = FILES[name]
    content, t = container.unpack(data), reference.tables()
    shape = structure.grid(content.height, content.width)
    if content.segment(STRUCTURE) is None:
        labels = structure.canonical(reference.derive(t, decode(Encoder(), data)[0], content.quality, *shape))
    else:
        labels = reference.read_map(t, content.segment(STRUCTURE), *shape)
    digest = hashlib.sha256(np.array(shape, "<u2").tobytes() + labels.astype(np.uint8).tobytes())
    assert digest.hexdigest() == row["map_sha256"]
    values = reference.read_values(t, content.segment(TEXTURE), labels)
    assert hashlib.sha256(values.astype("<i4").tobytes()).hexdigest() == row["values_sha256"]
