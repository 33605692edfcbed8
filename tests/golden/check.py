"""Do all golden files hold their symbols here?   python tests/golden/check.py [SETTING...] [--json]

Every file --ExactReader.read, under each setting, in a process of its own--> SHA-256 of its symbols == the one in symbols.json.
Exit status 1 where one is not. Needs numpy, constriction and safetensors; settings with torch need torch and Pillow as well, so
that another environment with another torch can run them, as `make conformance` does.
    python tests/golden/check.py --symbols FILE.npz    writes the symbols themselves, for `make.py`
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ENCODER = FOLDER.parents[1] / "priorcodec" / "weights" / "encoder.safetensors"
if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parents[1]))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What must not change a symbol.

    Attributes:
        environment: variables of the process.
        torch: "blocked": importing it fails; "float64", "autocast": through `Codec`, with that default dtype, or under bfloat16
            autocast; a device: through `Codec` there.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    torch: str = "blocked"


def _blas(threads: int, kernels: str = "") -> dict[str, str]:
    return {"OPENBLAS_NUM_THREADS": str(threads)} | ({"OPENBLAS_CORETYPE": kernels} if kernels else {})


SETTINGS = {
    "1 thread": Setting(environment=_blas(1)),
    "2 threads": Setting(environment=_blas(2)),
    "kernels for SSE": Setting(environment=_blas(1, "Nehalem")),
    "kernels for AVX": Setting(environment=_blas(1, "Sandybridge")),
    "kernels for AVX2, 2 threads": Setting(environment=_blas(2, "Haswell")),
    "torch, default dtype float64": Setting(torch="float64"),
    "torch, bf16 autocast": Setting(torch="autocast"),
    "torch, GPU": Setting(torch="cuda"),
}


def golden() -> dict[str, tuple[bytes, str]]:
    """Name -> a file's bytes and the SHA-256 of its symbols."""
    known = json.loads((FOLDER / "symbols.json").read_text())
    return {name: ((FOLDER / f"{name}.gic").read_bytes(), row["symbols_sha256"]) for name, row in known.items()}


def disagreements(reader: Any, files: Mapping[str, tuple[bytes, str]]) -> list[str]:
    """Names of the files that give other symbols, or none. reader: an `ExactReader`."""
    from priorcodec.core.errors import StreamError

    found = []
    for name, (data, wanted) in files.items():
        try:
            got = reader.read(data)[2]
        except StreamError:
            got = ""
        if got != wanted:
            found.append(name)
    return found


def here(mode: str, files: Mapping[str, tuple[bytes, str]]) -> list[str]:
    """`disagreements` in this process; mode: `Setting.torch`."""
    if mode == "blocked":
        sys.modules["torch"] = None  # type: ignore[assignment]  # `import torch` raises ImportError from now on
        from priorcodec.core.exact_reader import ExactReader

        return disagreements(ExactReader.load(ENCODER), files)
    import torch

    from priorcodec.core.codec import Codec

    if mode == "float64":
        torch.set_default_dtype(torch.float64)
    codec = Codec(device="cuda" if mode == "cuda" else "cpu")
    with torch.autocast("cuda" if mode == "cuda" else "cpu", torch.bfloat16, enabled=mode == "autocast"):
        return disagreements(codec.reader, files)


def run(name: str, script: str = str(Path(__file__)), *arguments: str) -> dict[str, Any]:
    """One row, from a process of its own under the setting."""
    setting = SETTINGS[name]
    done = subprocess.run(
        [sys.executable, script, "--here", setting.torch, *arguments],
        env={**os.environ, **setting.environment}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip()[-2000:]}")
    return {"setting": name, **asdict(setting), **json.loads(done.stdout)}


def possible() -> list[str]:
    """Names of the settings that this environment can run."""
    torch = importlib.util.find_spec("torch") is not None
    gpu = False
    if torch:
        import torch as found

        gpu = found.cuda.is_available()
    return [name for name, s in SETTINGS.items() if s.torch == "blocked" or torch and (gpu or s.torch != "cuda")]


def save_symbols(path: Path) -> None:
    """Every file's quality, size and symbols, pass by pass."""
    import numpy as np

    from priorcodec.core import container
    from priorcodec.core.container import STRIDE
    from priorcodec.core.entropy.coder import Decoder
    from priorcodec.core.exact_reader import ExactReader

    model, out = ExactReader.load(ENCODER).entropy_model, {}
    for name, (data, _) in golden().items():
        content, passes = container.unpack(data), itertools.count()
        decoder = Decoder(content.string)

        def take(mean, index, place, name=name, passes=passes, decoder=decoder):
            symbols = decoder.take(index, model.z_coder if place is None else model.y_coder)
            out[f"{name}/{next(passes)}"] = symbols
            return symbols

        h, w = (side // STRIDE for side in container.padded(content.height, content.width))
        model.walk(content.quality, h, w, take)
        out[f"{name}/head"] = np.array([content.quality, content.height, content.width])
    np.savez_compressed(path, **out)


def main() -> int:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("settings", nargs="*", help=f"some of {', '.join(SETTINGS)}; default: what works here")
    cli.add_argument("--json", action="store_true", help="print rows as JSON")
    cli.add_argument("--here", metavar="TORCH", help=argparse.SUPPRESS)
    cli.add_argument("--symbols", type=Path, help="write the symbols of all files")
    given = cli.parse_args()
    if given.symbols:
        save_symbols(given.symbols)
        return 0
    if given.here:
        files = golden()
        differ = here(given.here, files)
        version = sys.modules["torch"].__version__ if sys.modules.get("torch") else None
        print(json.dumps({"version": version, "files": len(files), "differ": differ}))
        return 0
    if unknown := set(given.settings) - set(SETTINGS):
        cli.error(f"no setting {', '.join(sorted(unknown))}; there are {', '.join(SETTINGS)}")
    rows = [run(name) for name in given.settings or possible()]
    if given.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            text = f"{len(row['differ'])} differ: {', '.join(row['differ'])}" if row["differ"] else "all agree"
            with_torch = f"torch {row['version']}" if row["version"] else "no torch"
            print(f"{row['setting']} ({with_torch}): {row['files']} files, {text}")
    return 1 if any(row["differ"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
