"""Reads many files with priorcodec_lite, torch blocked: as tests/web/read.mjs.   read.py ENCODER SEMANTIC < JSON > JSON"""

import base64
import hashlib
import json
import sys
from pathlib import Path

sys.modules["torch"] = sys.modules["priorcodec"] = None

import numpy as np  # noqa: E402
from priorcodec_lite.core.errors import StreamError  # noqa: E402
from priorcodec_lite.core.exact_reader import ExactReader  # noqa: E402
from priorcodec_lite.core.layers.semantic import SemanticTables  # noqa: E402

given = json.load(sys.stdin)
reader, tables = ExactReader.load(Path(sys.argv[1])), SemanticTables(Path(sys.argv[2]))


def attempt(read, *arguments):
    try:
        return read(*arguments)
    except StreamError as error:
        return {"refused": str(error)}


def digests(content):
    found = tables.read(content, reader)
    labels = np.array(found.labels.shape, "<u2").tobytes() + found.labels.tobytes()
    values = b"" if found.values is None else found.values.astype("<i4").tobytes()
    return {
        "map_sha256": hashlib.sha256(labels).hexdigest(),
        "values_sha256": hashlib.sha256(values).hexdigest(),
    }


def outcome(data):
    content, found = reader.unpack(data, max_pixels=given["maxPixels"]), {}
    if content.string is not None:
        y_hat_q, symbols = reader.latent(content)
        found |= {"symbols": symbols, "sum": float(y_hat_q.sum(dtype=float))}
    if content.string is None or any(segment.type in (16, 17) for segment in content.segments):
        found["regions"] = attempt(digests, content)
    return found


print(json.dumps({name: attempt(outcome, base64.b64decode(data)) for name, data in given["files"].items()}))
