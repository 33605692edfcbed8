"""Remake the golden files after a new encoder was frozen.   python tests/golden/make.py

images (seeded, or crops of the demo photograph and of `generated.webp`) --encoder--> NAME.gic, SHA-256 of its symbols
Needs nothing but the encoder in priorcodec/weights: adapters may be trained later. Files of an older encoder go.
"""

import json
from pathlib import Path

import numpy as np

from priorcodec.core.codec import Codec
from priorcodec.core.image import io as image_io

FOLDER = Path(__file__).parent
PHOTO = FOLDER.parents[1] / "priorcodec" / "demo" / "coffee.webp"
CASES = {  # kind -> (width, height, quality)
    "photo": [
        (1, 1, 0), (64, 64, 1), (257, 65, 3.5), (600, 400, 0), (600, 400, 2), (384, 256, 4), (256, 384, 5), (333, 211, 6),
        (128, 96, 7), (129, 127, 0.5), (17, 15, 6.5), (768, 512, 1.25), (193, 161, 2.71875), (2049, 1025, 1), (1025, 2049, 0),
    ],
    "generated": [
        (256, 256, 0), (256, 256, 3), (255, 129, 1.5), (200, 256, 4.5), (97, 256, 5.5), (256, 64, 6), (65, 63, 7), (512, 512, 2),
    ],
    "flat": [(1, 1, 7), (2, 1, 0), (1, 2, 3.5), (64, 64, 2), (511, 257, 5), (2049, 1025, 4.25)],
    "gradient": [(127, 63, 0), (320, 240, 1), (1, 513, 4), (513, 1, 6), (300, 300, 7), (1024, 16, 2.5)],
    "noise": [
        (1, 1, 3), (16, 16, 0), (15, 17, 7), (64, 48, 5), (3, 130, 1.03125), (100, 100, 6.96875), (129, 65, 2),
    ],
    "text": [(400, 100, 3), (222, 333, 5), (640, 480, 1.5), (31, 33, 7), (160, 90, 0.03125)],
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


def main() -> None:
    codec, known = Codec(), {}
    for old in FOLDER.glob("*.gic"):
        old.unlink()
    for kind, cases in CASES.items():
        for width, height, quality in cases:
            name = f"{kind}-{width}x{height}-q{quality:g}"
            encoded = codec.encode(image(kind, width, height), quality)
            (FOLDER / f"{name}.gic").write_bytes(encoded.data)
            known[name] = {"encoder": f"{codec.id:08x}", "symbols_sha256": encoded.symbols_sha256}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in known.items())
    (FOLDER / "symbols.json").write_text(f"{{\n{lines}\n}}\n")
    print(f"{len(known)} files, {sum(path.stat().st_size for path in FOLDER.glob('*.gic'))} bytes")


if __name__ == "__main__":
    main()
