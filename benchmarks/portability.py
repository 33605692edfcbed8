"""Does every machine read the same symbols out of a file?   python benchmarks/portability.py write | read | compare

    write NAME IMAGES... --files FOLDER    here: code each image at each quality, keep the files, hash the symbols
    read NAME --files FOLDER                 elsewhere (GPU, other torch, more --threads): decode them, hash again
    compare A.json B.json ... [--name NAME]  every file, every set: equal or not; exit status 1 if any differs
A hash covers all integers the entropy decoder gives back. What the encoder chose to write may differ between machines;
what a file says may not. The preview's pixels are floating point: their largest difference is reported, not judged.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import resultfile

from priorcodec.core.errors import ConfigError, PriorCodecError, StreamError


def read(folder: Path, codec: Any) -> list[dict[str, Any]]:
    """One row per .gic file of the folder, in order of name."""
    rows = []
    for path in sorted(folder.glob("*.gic")):
        data = path.read_bytes()
        row = {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        try:
            decoded = codec.decode(data)
            pixels = codec.preview(decoded)
            # a coarse print of the preview: means of a 4x4 grid, enough to see how far floating point drifts
            grid = [
                float(np.mean(part)) for band in np.array_split(pixels, 4) for part in np.array_split(band, 4, axis=1)
            ]
            rows.append({**row, "symbols": decoded.symbols_sha256, "preview": [round(v, 4) for v in grid]})
        except StreamError as error:
            rows.append({**row, "symbols": f"unreadable: {error}", "preview": []})
    if not rows:
        raise ConfigError(f"no .gic file in {folder.name}; make some with: python benchmarks/portability.py write")
    return rows


def write(images: list[Path], folder: Path, codec: Any, qualities: list[float]) -> None:
    """Code every image at every quality; the encoder's own symbols must be what a decoder reads back."""
    from priorcodec.core.image import io as image_io
    from priorcodec.evaluation import evaluate

    folder.mkdir(parents=True, exist_ok=True)
    for path in evaluate.expand(images, evaluate.IMAGES):
        pixels = image_io.load(path).pixels
        for quality in qualities:
            coded = codec.encode(pixels, quality)
            if codec.read(coded.data)[2] != coded.symbols_sha256:
                raise StreamError(f"{path.name} at quality {quality}: read back other symbols than were written")
            (folder / f"{path.stem}-q{quality:g}.gic").write_bytes(coded.data)


def compare(paths: list[Path]) -> list[str]:
    """One line per disagreement between the first set and any other; empty when all agree."""
    sets = [json.loads(path.read_text()) for path in paths]
    first = {row["file"]: row for row in sets[0]["rows"]}
    found = []
    for path, other in zip(paths[1:], sets[1:], strict=True):
        rows = {row["file"]: row for row in other["rows"]}
        for name in sorted(first.keys() ^ rows.keys()):
            found.append(f"{path.name}: {name} is in one set only")
        for name in sorted(first.keys() & rows.keys()):
            a, b = first[name], rows[name]
            if a["sha256"] != b["sha256"]:
                found.append(f"{path.name}: {name} is another file")
            elif a["symbols"] != b["symbols"]:
                found.append(f"{path.name}: {name} gives other symbols: {b['symbols'][:60]}")
    return found


def _drift(first: Path, other: Path) -> float:
    """Largest difference between the previews' block means, in 8-bit levels."""
    a, b = ({r["file"]: r["preview"] for r in json.loads(p.read_text())["rows"]} for p in (first, other))
    pairs = [pair for file in a.keys() & b.keys() for pair in zip(a[file], b[file], strict=False)]
    return max((abs(x - y) for x, y in pairs), default=0.0)


def summary(paths: list[Path]) -> dict[str, Any]:
    """What README and report show of a comparison: one row per set, each against the first."""
    sets = [json.loads(path.read_text()) for path in paths]
    rows = [
        {**one["settings"], "python": one["versions"]["python"], "differ": len(compare([paths[0], path])),
         "preview_drift": round(_drift(paths[0], path), 6)}
        for path, one in zip(paths, sets, strict=True)
    ]  # fmt: skip
    return {"files": len(sets[0]["rows"]), "sets": rows}


def _arguments() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = cli.add_subparsers(dest="verb", required=True)
    for verb in ("write", "read"):
        sub = verbs.add_parser(verb)
        sub.add_argument("name", help="results/NAME.json")
        if verb == "write":
            sub.add_argument("images", type=Path, nargs="+")
            sub.add_argument("--qualities", type=float, nargs="+", default=[0, 2.5, 5])
        sub.add_argument("--files", type=Path, required=True, help="folder of .gic files")
        sub.add_argument("--encoder", type=Path, help="weight file; default the shipped one")
        sub.add_argument("--device", default="cpu")
        sub.add_argument("--threads", type=int, default=1)
        sub.add_argument("--results", type=Path, default=resultfile.RESULTS)
        sub.add_argument("--no-mkldnn", action="store_true", help="torch's plain kernels")
    sub = verbs.add_parser("compare")
    sub.add_argument("sets", type=Path, nargs="+")
    sub.add_argument("--name", help="write results/NAME.json, a table for README and report")
    sub.add_argument("--results", type=Path, default=resultfile.RESULTS)
    return cli.parse_args()


def main() -> None:
    args = _arguments()
    if args.verb == "compare":
        found = compare(args.sets)
        print(
            "\n".join(found)
            or f"{len(args.sets)} sets agree on every symbol; previews differ by at most "
            f"{max(_drift(args.sets[0], other) for other in args.sets):.4f}"
        )
        if args.name:
            print(resultfile.write(args.name, "portability-sets", summary(args.sets), folder=args.results))
        sys.exit(1 if found else 0)
    import torch

    from priorcodec.core.codec import Codec

    torch.set_num_threads(args.threads)
    torch.backends.mkldnn.enabled = not args.no_mkldnn
    codec = Codec(args.encoder, device=args.device)
    if args.verb == "write":
        write(args.images, args.files, codec, args.qualities)
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device
    settings = {"device": where, "simd": torch.backends.cpu.get_cpu_capability(), "mkldnn": not args.no_mkldnn}
    settings |= {"threads": args.threads, "torch": torch.__version__, "encoder": f"{codec.id:08x}"}
    content = {"settings": settings, "rows": read(args.files, codec)}
    print(resultfile.write(args.name, "portability", content, folder=args.results))


if __name__ == "__main__":
    try:
        main()
    except PriorCodecError as error:
        sys.exit(f"portability.py: {error}")
