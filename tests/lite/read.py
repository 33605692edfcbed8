"""Reads many files with priorcodec_lite, torch blocked: as tests/web/read.mjs.   read.py ENCODER < JSON > JSON"""

import base64
import json
import sys
from pathlib import Path

sys.modules["torch"] = sys.modules["priorcodec"] = None

from priorcodec_lite.core.errors import StreamError  # noqa: E402
from priorcodec_lite.core.exact_reader import ExactReader  # noqa: E402

given = json.load(sys.stdin)
reader, outcomes = ExactReader.load(Path(sys.argv[1])), {}
for name, data in given["files"].items():
    try:
        _, y_hat_q, symbols = reader.read(base64.b64decode(data), max_pixels=given["maxPixels"])
        outcomes[name] = {"symbols": symbols, "sum": float(y_hat_q.sum(dtype=float))}
    except StreamError as error:
        outcomes[name] = {"refused": str(error)}
print(json.dumps(outcomes))
