"""The modules that priorcodec-lite takes from priorcodec, unchanged but for the name of the package in their imports.

    priorcodec/core/*.py, pillow.py --copy--> priorcodec_lite/core/*.py, pillow.py --setuptools--> wheel
They are copied when the wheel is built, so there is one source of each, and the wheel needs no priorcodec beside it. The other
ways are worse: a second distribution that owns a part of `priorcodec` breaks when the whole is installed as well, and a third
one for the common part would have to be released in step with both. `tests/lite` imports every copy where torch is blocked.
"""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "priorcodec"
SHARED = (
    *(f"core/{name}.py" for name in ("__init__", "checks", "container", "errors", "exact_reader", "moments")),
    *(f"core/{name}.py" for name in ("rate_control", "shipped", "statistics", "tiling", "types")),
    *(f"core/entropy/{name}.py" for name in ("__init__", "adaptive", "coder", "exact", "frozen", "tables")),
    *(f"core/io/{name}.py" for name in ("__init__", "atomic", "names", "reading")),
    *(f"core/layers/{name}.py" for name in ("__init__", "residual", "semantic", "structure", "texture")),
    *(f"core/image/{path.name}" for path in sorted((SOURCE / "core" / "image").glob("*.py"))),
    "pillow.py",
    "py.typed",
)
IMPORTED = re.compile(r"\bpriorcodec\.(?=[a-z])")


def copy(package: Path) -> list[Path]:
    """Write the copies into the folder of the package priorcodec_lite, and return their paths; LICENSE comes along."""
    written = []
    for name in SHARED:
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(IMPORTED.sub("priorcodec_lite.", (SOURCE / name).read_text(encoding="utf-8")), encoding="utf-8")
        written.append(path)
    (package / "LICENSE").write_bytes((SOURCE.parent / "LICENSE").read_bytes())
    return written
