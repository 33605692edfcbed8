"""Make the golden files again.   python tests/golden/make.py [--symbols SYMBOLS.npz]

images (seeded, or crops of the demo photograph and of `generated.webp`) --encoder--> NAME.gic, SHA-256 of its symbols
After a new encoder was frozen: without arguments; adapters may be trained later, and files of an older encoder go.
After a new file format: with the symbols of the old files (`check.py --symbols` writes them), since another torch rounds a few
features the other way. symbols.json must stay as it is then.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.container import STRIDE, Container
from priorcodec.core.entropy.coder import Encoder
from priorcodec.core.image import io as image_io

FOLDER = Path(__file__).parent
PHOTO = FOLDER.parents[1] / "priorcodec" / "demo" / "coffee.webp"
CASES = {  # kind -> (width, height, quality)
    "photo": [
        (1, 1, 0), (64, 64, 1), (257, 65, 5.5), (600, 400, 0), (600, 400, 3), (384, 256, 6), (256, 384, 8), (333, 211, 10),
        (128, 96, 11), (129, 127, 0.5), (17, 15, 10.5), (768, 512, 3.25), (193, 161, 4.6875), (2049, 1025, 2), (1025, 2049, 0),
    ],
    "generated": [
        (256, 256, 0), (256, 256, 5), (255, 129, 1.5), (200, 256, 7.5), (97, 256, 8.5), (256, 64, 9), (65, 63, 11), (512, 512, 4),
    ],
    "flat": [(1, 1, 11), (2, 1, 0), (1, 2, 3.5), (64, 64, 4), (511, 257, 8), (2049, 1025, 7.25)],
    "gradient": [(127, 63, 0), (320, 240, 2), (1, 513, 7), (513, 1, 9), (300, 300, 11), (1024, 16, 4.5)],
    "noise": [
        (1, 1, 5), (16, 16, 0), (15, 17, 11), (64, 48, 8), (3, 130, 1.0625), (100, 100, 10.9375), (129, 65, 3),
    ],
    "text": [(400, 100, 5), (222, 333, 8), (640, 480, 2.5), (31, 33, 11), (160, 90, 0.0625)],
}  # fmt: skip


def image(kind: str, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3); the same for the same words."""
    dice = np.random.default_rng([*kind.encode(), width, height])
    match kind:
        case "photo" | "generated":
            whole = image_io.load(PHOTO if kind == "photo" else FOLDER / "generated.webp").pixels
            missing = [max(0, wanted - have) for wanted, have in zip((height, width), whole.shape[:2], strict=True)]
            whole = np.pad(whole, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
            top, left = (
                int(dice.integers(have - wanted + 1))
                for have, wanted in zip(whole.shape, (height, width), strict=False)
            )
            return whole[top : top + height, left : left + width]
        case "flat":
            return np.full((height, width, 3), dice.integers(0, 256, 3), np.uint8)
        case "gradient":
            y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
            return (255 * np.stack([x + 0 * y, y + 0 * x, (x + y) / 2], 2)).astype(np.uint8)
        case "noise":
            return dice.integers(0, 256, (height, width, 3), dtype=np.uint8)
        case _:  # rows of black signs on white, five by seven dots in cells of twelve by twenty
            cells = np.zeros((height // 20 + 1, width // 12 + 1, 20, 12), bool)
            cells[:, :, 3:17, 1:11] = dice.random((*cells.shape[:2], 7, 5)).repeat(2, 2).repeat(2, 3) < 0.45
            page = cells.transpose(0, 2, 1, 3).reshape(cells.shape[0] * 20, -1)[:height, :width]
            return np.where(page[..., None], np.uint8(20), np.uint8(250)).repeat(3, 2)


def rewritten(codec: Codec, symbols: dict[str, np.ndarray]) -> dict[str, tuple[bytes, str]]:
    """Name -> a file with these symbols, and their SHA-256. Raises ValueError: they are not those of symbols.json."""
    model, files, known = codec.entropy_model, {}, json.loads((FOLDER / "symbols.json").read_text())
    for name, row in known.items():
        quality, height, width = symbols[f"{name}/head"].tolist()
        parts, coder = (symbols[f"{name}/{number}"] for number in itertools.count()), Encoder()

        def next_pass(mean, index, place, parts=parts, coder=coder):
            values, tables = next(parts), model.z_coder if place is None else model.y_coder
            if values[index < tables.certain].any():
                raise ValueError("a symbol that is not coded is not zero")
            coder.add(values, index, tables)
            return values

        h, w = (side // STRIDE for side in container.padded(height, width))
        _, digest = model.walk(quality, h, w, next_pass)
        if digest != row["symbols_sha256"]:
            raise ValueError(f"{name}: other symbols than in symbols.json")
        content = Container(encoder_id=codec.id, quality=quality, height=height, width=width, string=coder.finish())
        files[name] = container.pack(content), digest
    return files


def encoded(codec: Codec) -> dict[str, tuple[bytes, str]]:
    """Name -> a file of each case, and the SHA-256 of its symbols."""
    files = {}
    for kind, cases in CASES.items():
        for width, height, quality in cases:
            coded = codec.encode(image(kind, width, height), quality)
            files[f"{kind}-{width}x{height}-q{quality:g}"] = coded.data, coded.symbols_sha256
    return files


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("--symbols", type=Path, help="write files with these symbols instead of encoding the images")
    given, codec = cli.parse_args(), Codec()
    files = rewritten(codec, dict(np.load(given.symbols))) if given.symbols else encoded(codec)
    for old in FOLDER.glob("*.gic"):
        old.unlink()
    for name, (data, _) in files.items():
        (FOLDER / f"{name}.gic").write_bytes(data)
    rows = {name: {"encoder": f"{codec.id:08x}", "symbols_sha256": digest} for name, (_, digest) in files.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    (FOLDER / "symbols.json").write_text(f"{{\n{lines}\n}}\n")
    print(f"{len(files)} files, {sum(len(data) for data, _ in files.values())} bytes")


if __name__ == "__main__":
    main()
