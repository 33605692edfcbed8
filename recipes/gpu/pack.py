"""What travels to the GPU machine, into folders of limited size: pack.py CHECKPOINT TARS... --out runs/gpu --image-mib 18 57 57.

OUT/0/images-0.tar       the training images as they are (AVIF), in random order, `--image-mib` MiB in each folder
OUT/0/start.safetensors  averaged weights in fp16 (entropy model and gains in fp32); --fork leaves g_p out, it starts as g_s
OUT/0/features.safetensors, vgg.safetensors    EfficientNet-Lite0, folded; the first four stages of ST-LPIPS's VGG-16; fp16
OUT/1/images-1.tar, ...
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

from priorcodec.training.perceptual import Features, Vgg
from recipes.gpu.common import save_features


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("checkpoint", type=Path)
    p.add_argument("tars", type=Path, nargs="+")
    p.add_argument("--out", type=Path, default=Path("runs/gpu"))
    p.add_argument("--image-mib", type=float, nargs="+", default=[18, 57, 57])
    p.add_argument("--smallest", type=int, default=256, help="short side of the smallest image taken")
    p.add_argument("--fork", action="store_true")
    a = p.parse_args()
    first = a.out / "0"
    first.mkdir(parents=True, exist_ok=True)
    saved = torch.load(a.checkpoint, map_location="cpu")
    state = saved.get("average", saved)
    full = ("log_", "entropy.")
    start = {
        k: v.float() if k.startswith(full) else v.half()
        for k, v in state.items()
        if not (a.fork and k.startswith("g_p."))
    }
    save_file({k: v.contiguous() for k, v in start.items()}, first / "start.safetensors")
    save_features(Features.lite0(), first / "features.safetensors")
    save_file({k: v.half().contiguous() for k, v in Vgg.shipped().state_dict().items()}, first / "vgg.safetensors")
    found: list[tuple[str, bytes]] = []
    for tar in a.tars:
        with tarfile.open(tar) as files:
            for member in files:
                if member.isfile():
                    data = files.extractfile(member).read()  # pyright: ignore
                    if min(Image.open(io.BytesIO(data)).size) >= a.smallest:
                        found.append((f"{tar.stem}-{Path(member.name).name}", data))
    random.Random(0).shuffle(found)
    for i, limit in enumerate(a.image_mib):
        used, folder = 0, a.out / str(i)
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / f"images-{i}.tar", "w") as files:
            while found and used + len(found[-1][1]) + 1024 < limit * 2**20:
                name, data = found.pop()
                info = tarfile.TarInfo(name)
                info.size = len(data)
                files.addfile(info, io.BytesIO(data))
                used += len(data) + 1024
    print(f"{len(found)} images left out")
    for file in sorted(a.out.glob("?/*")):
        print(f"{file} {file.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
