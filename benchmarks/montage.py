"""One crop through every decoder, to look at.   python benchmarks/montage.py IMAGE TARGET.webp [--crop X Y SIDE]

A row per quality, all of it from one file: original, preview, each backbone, and AVIF at the nearest size of the whole image.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from priorcodec import demo, open_session
from priorcodec.core.errors import PriorCodecError
from priorcodec.core.image import io as image_io


def run(args: argparse.Namespace) -> None:
    original, rows = image_io.load(args.image).pixels, []
    x, y, side = args.crop or (0, 0, max(original.shape))
    sessions = {name: open_session(name) for name in args.backbones}
    codec = open_session()
    for quality in args.qualities:
        data = codec.encode(original, quality)
        images = {"preview": codec.preview(data, output="np")}
        images |= {name: session.decode(data, output="np") for name, session in sessions.items()}
        shots = [demo.CodedExample(codec="original", size_bytes=0, pixels=original)]
        shots += [demo.CodedExample(codec=name, size_bytes=len(data), pixels=pixels) for name, pixels in images.items()]
        shots.append(demo.nearest("AVIF", original, len(data)))
        rows.append([replace(shot, pixels=shot.pixels[y : y + side, x : x + side]) for shot in shots])
    Image.fromarray(demo.montage(rows)).save(args.target, quality=88, method=6)


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("image", type=Path)
    cli.add_argument("target", type=Path)
    cli.add_argument("--crop", nargs=3, type=int, metavar=("X", "Y", "SIDE"), help="default: the whole image")
    cli.add_argument("--qualities", nargs="+", type=float, default=[1, 3, 5])
    cli.add_argument("--backbones", nargs="+", default=["nano_pixel", "nano_dit"])
    try:
        run(cli.parse_args())
    except (PriorCodecError, OSError) as error:
        sys.exit(f"montage.py: {error}")
