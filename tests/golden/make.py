"""Remake the golden files after a new encoder was frozen.   python tests/golden/make.py

Writes NAME.gic from priorcodec/demo/coffee.webp crops and the SHA-256 of the symbols to symbols.json. Old encoders' files stay.
"""

import json
from pathlib import Path

from priorcodec import open_session
from priorcodec.core import image

FOLDER = Path(__file__).parent
CASES = {"crop-q0": (slice(0, 96), slice(40, 168), 0.0), "odd-q3.5": (slice(100, 165), slice(100, 357), 3.5),
         "crop-q7": (slice(200, 264), slice(300, 364), 7.0)}  # fmt: skip


def main() -> None:
    session = open_session()
    pixels = image.load(FOLDER.parents[1] / "priorcodec" / "demo" / "coffee.webp").pixels
    known = {}
    for name, (rows, columns, quality) in CASES.items():
        encoded = session.codec.encode(pixels[rows, columns], quality)
        (FOLDER / f"{name}.gic").write_bytes(encoded.data)
        known[name] = {"encoder": f"{session.codec.id:08x}", "symbols_sha256": encoded.symbols_sha256}
    (FOLDER / "symbols.json").write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
