"""Golden files with semantic layers.   python tests/golden/layers.py writes `layers/` again, after new semantic tables.

Every NAME.gic of `layers/` has, in `layers.json`, the SHA-256 of its map (rows and columns as uint16, labels as uint8) and of its
values (int32, little endian). They are read with numpy alone, as `priorcodec regions` does.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "layers"
if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parents[2]))

from priorcodec.core import container, shipped  # noqa: E402
from priorcodec.core.exact_reader import ExactReader  # noqa: E402
from priorcodec.core.layers.semantic import SemanticTables  # noqa: E402

CASES = {  # name -> (kind of `make.image`, width, height, quality of the latent or None, whether the map is written)
    "alone": ("photo", 384, 256, None, True),
    "alone-pixel": ("photo", 1, 1, None, True),
    "alone-column": ("gradient", 3, 513, None, True),
    "alone-noise": ("noise", 257, 129, None, True),
    "beside": ("photo", 257, 193, 2, True),
    "beside-generated": ("generated", 256, 256, 0, True),
    "derived": ("photo", 384, 256, 5.5, False),
    "derived-generated": ("generated", 255, 129, 0, False),
}


def digests(data: bytes, reader: ExactReader, tables: SemanticTables) -> dict[str, str]:
    content = reader.unpack(data)
    found = tables.read(content, reader)
    labels = np.concatenate([np.array(found.labels.shape, "<u2").view(np.uint8), found.labels.reshape(-1)])
    values = b"" if found.values is None else found.values.astype("<i4").tobytes()
    return {
        "map_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
        "values_sha256": hashlib.sha256(values).hexdigest(),
    }


def open_reader() -> tuple[ExactReader, SemanticTables]:
    return ExactReader.load(shipped.ENCODER), SemanticTables()


def golden() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Name -> a file's bytes and its digests."""
    known = json.loads((FOLDER / "layers.json").read_text())
    return {name: ((FOLDER / f"{name}.gic").read_bytes(), row) for name, row in known.items()}


def main() -> None:
    from priorcodec.core.codec import Codec
    from priorcodec.core.layers.settings import LayerConfig
    from tests.golden.make import image

    codec, rows = Codec(), {}
    reader, tables = open_reader()
    FOLDER.mkdir(exist_ok=True)
    for name, (kind, width, height, quality, written) in CASES.items():
        pixels = image(kind, width, height)
        data = codec.encode(pixels, layers=LayerConfig(layers=("semantic",))).data
        if quality is not None:
            plain = container.unpack(codec.encode(pixels, quality).data)
            labels = None if written else codec.regions(plain).labels
            described = codec.semantic_networks.describe(pixels, codec.analyze(pixels), labels=labels)
            data = container.pack(replace(plain, segments=codec.semantic_tables.write(*described, map_written=written)))
        (FOLDER / f"{name}.gic").write_bytes(data)
        rows[name] = digests(data, reader, tables)
        print(f"{name}: {len(data)} bytes")
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    (FOLDER / "layers.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
