"""Do all golden files hold their symbols here?   python tests/golden/check.py [SETTING...] [--json]

Every file --Codec.read, under each setting--> SHA-256 of its symbols == the one in symbols.json. Exit status 1 where one is not.
Needs torch, numpy, Pillow, pluggy, safetensors and compressai's compiled module, so that another environment with another torch
can run it: `make conformance OLD=PATH/TO/python`. Settings are switched inside one process and put back.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from priorcodec.core.codec import Codec
from priorcodec.core.entropy import integer
from priorcodec.core.errors import StreamError

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What must not change a symbol. autocast: to bfloat16; tf32: for float32 products on a GPU."""

    device: str = "cpu"
    threads: int = 1
    mkldnn: bool = True
    float64: bool = False
    autocast: bool = False
    tf32: bool = False
    compiled: bool = False


SETTINGS = {
    "1 thread": Setting(),
    "2 threads": Setting(threads=2),
    "1 thread, no mkldnn": Setting(mkldnn=False),
    "2 threads, no mkldnn": Setting(threads=2, mkldnn=False),
    "default dtype float64": Setting(float64=True),
    "bf16 autocast": Setting(autocast=True),
    "torch.compile": Setting(compiled=True),
    "GPU": Setting(device="cuda"),
    "GPU, bf16 autocast": Setting(device="cuda", autocast=True),
    "GPU, TF32": Setting(device="cuda", tf32=True),
}
COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))  # torch.compile needs one on the PATH


@contextmanager
def under(setting: Setting) -> Iterator[None]:
    """Torch's switches as the setting says; afterwards as they were."""
    threads, dtype, mkldnn = torch.get_num_threads(), torch.get_default_dtype(), torch.backends.mkldnn.enabled
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(setting.device, torch.bfloat16, enabled=setting.autocast))
        if setting.compiled:  # every integer network; fullgraph: an error instead of a silent step back to eager
            fast = torch.compile(integer.exact_strip, dynamic=True, fullgraph=True)
            stack.enter_context(mock.patch.object(integer, "exact_strip", fast))
            config = torch._dynamo.config
            limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before torch 2.7
            stack.enter_context(config.patch({limit: 64}))  # kernels, strides, with relu and without
        try:
            torch.set_num_threads(setting.threads)
            torch.set_default_dtype(torch.float64 if setting.float64 else torch.float32)
            torch.backends.mkldnn.enabled = setting.mkldnn
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.tf32
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
            torch.backends.mkldnn.enabled = mkldnn
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def golden() -> dict[str, tuple[bytes, str]]:
    """Name -> a file's bytes and the SHA-256 of its symbols."""
    known = json.loads((FOLDER / "symbols.json").read_text())
    return {name: ((FOLDER / f"{name}.gic").read_bytes(), row["symbols_sha256"]) for name, row in known.items()}


def disagreements(codec: Codec, files: Mapping[str, tuple[bytes, str]], setting: Setting) -> list[str]:
    """Names of the files that give other symbols, or none, under the setting. The codec is on the setting's device."""
    found = []
    with under(setting):
        for name, (data, wanted) in files.items():
            try:
                got = codec.read(data)[2]
            except StreamError:
                got = ""
            if got != wanted:
                found.append(name)
    return found


def check(names: list[str]) -> list[dict[str, Any]]:
    """One row per setting."""
    files, codecs, rows = golden(), {}, []
    for name in names:
        setting = SETTINGS[name]
        if setting.device not in codecs:
            codecs[setting.device] = Codec(device=setting.device)
        differ = disagreements(codecs[setting.device], files, setting)
        rows.append(
            {"setting": name, "torch": torch.__version__, **asdict(setting), "files": len(files), "differ": differ}
        )
    return rows


def main() -> int:
    gpu = torch.cuda.is_available()
    here = [name for name, s in SETTINGS.items() if (COMPILER or not s.compiled) and (gpu or s.device == "cpu")]
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("settings", nargs="*", help=f"some of {', '.join(SETTINGS)}; default: what works here")
    cli.add_argument("--json", action="store_true", help="print rows as JSON")
    given = cli.parse_args()
    if unknown := set(given.settings) - set(SETTINGS):
        cli.error(f"no setting {', '.join(sorted(unknown))}; there are {', '.join(SETTINGS)}")
    rows = check(given.settings or here)
    if given.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            told = f"{len(row['differ'])} differ: {', '.join(row['differ'])}" if row["differ"] else "all agree"
            print(f"torch {row['torch']}, {row['setting']}: {row['files']} files, {told}")
    return 1 if any(row["differ"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
