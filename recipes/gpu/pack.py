"""What travels to the GPU machine, into one folder: pack.py CHECKPOINT TARS... --out runs/gpu --image-mib 32 [--fork].

images.tar            the training images as they are (AVIF), large ones first, until --image-mib
start.safetensors     averaged weights in fp16 (entropy model and gains in fp32); --fork leaves g_p out, it starts as g_s
features.safetensors  EfficientNet-Lite0, folded, fp16
"""

from __future__ import annotations

import argparse
import io
import random
import tarfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from recipes.encoder2.perceptual import Features


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("checkpoint", type=Path)
    p.add_argument("tars", type=Path, nargs="+")
    p.add_argument("--out", type=Path, default=Path("runs/gpu"))
    p.add_argument("--image-mib", type=float, default=32)
    p.add_argument("--smallest", type=int, default=288, help="short side of the smallest image taken")
    p.add_argument("--fork", action="store_true")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    saved = torch.load(a.checkpoint, map_location="cpu")
    state = saved.get("average", saved)
    full = ("log_", "entropy.")
    start = {
        k: v.float() if k.startswith(full) else v.half()
        for k, v in state.items()
        if not (a.fork and k.startswith("g_p."))
    }
    save_file({k: v.contiguous() for k, v in start.items()}, a.out / "start.safetensors")
    Features.lite0().to_file(a.out / "features.safetensors")
    found: list[tuple[int, str, bytes]] = []
    for tar in a.tars:
        with tarfile.open(tar) as files:
            for member in files:
                if member.isfile():
                    data = files.extractfile(member).read()  # pyright: ignore
                    short = min(Image.open(io.BytesIO(data)).size)
                    if short >= a.smallest:
                        found.append((short, f"{tar.stem}-{Path(member.name).name}", data))
    random.Random(0).shuffle(found)
    found.sort(key=lambda f: -min(f[0], 512))
    used = 0
    with tarfile.open(a.out / "images.tar", "w") as files:
        for _, name, data in found:
            if used + len(data) + 1024 > a.image_mib * 2**20:
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            files.addfile(info, io.BytesIO(data))
            used += len(data) + 1024
    for file in sorted(a.out.iterdir()):
        print(f"{file} {file.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
