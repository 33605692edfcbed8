"""Writes the seeds of `tests/fuzz.py` again: python -m tests.corpus.make (the shipped encoder, the demo photograph)."""

import zlib
from pathlib import Path

import numpy as np

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.container import Container, Segment
from priorcodec.core.image import io as image_io
from priorcodec.core.layers.settings import LayerConfig
from priorcodec.core.layers.texture import CHANNELS
from tests.helpers import DEMO

SEMANTIC = LayerConfig(layers=("semantic",))
RESIDUAL = LayerConfig(layers=("latent", "residual"), residual=8, roi=[(16, 0, 20, 30)])
HERE = Path(__file__).parent


def sealed(body: bytes, encoder_id: int = 0) -> bytes:
    """With a check that fits the body and its encoder."""
    return body + (zlib.crc32(body) ^ encoder_id).to_bytes(4, "little")


def seeds() -> dict[str, bytes]:
    codec, photo = Codec(), image_io.load(DEMO).pixels[:300, :400]
    plain = codec.encode(photo[100:140, 50:98], 4).data
    stream = vars(container.unpack(plain))
    layers = container.unpack(codec.encode(photo[100:140, 50:98], layers=SEMANTIC).data).segments
    found = codec.regions(container.unpack(plain))
    values = np.random.default_rng(1).normal(0, 1, (found.count, CHANNELS))
    derived = codec.semantic_tables.write(found.labels, values, map_written=False)
    later = (Segment(type=7, data=b"later"), Segment(type=77, data=plain))
    return {
        "photo": plain,
        "statistics": codec.encode(photo[:64, :65], 5.5, statistics=True).data,
        "pixel": codec.encode(photo[:1, :1], 11).data,
        "residual": codec.encode(photo[100:140, 50:98], 4, layers=RESIDUAL).data,
        "row": codec.encode(photo[:1, :200], 0).data,
        "flat": codec.encode(np.full((64, 64, 3), 128, np.uint8), 8).data,
        "segments": container.pack(Container(**{**stream, "segments": later})),
        "empty-string": container.pack(Container(**{**stream, "string": b""})),
        "semantic": codec.encode(photo[:90, :120], layers=SEMANTIC).data,
        "semantic-latent": container.pack(Container(**{**stream, "segments": layers})),
        "structure": container.pack(Container(**{**stream, "string": None, "segments": layers[:1]})),
        "texture": container.pack(Container(**{**stream, "segments": derived})),
        "escapes": container.pack(Container(**{**stream, "string": b"\xff" * 192})),
        "large": container.pack(Container(**{**stream, "height": 65535, "width": 65535})),
        "version-1": sealed(b"GIC\x01" + codec.id.to_bytes(4, "little") + b"\x20\x00\x01\x01\x00"),
        "critical": sealed(b"GIC\x12\0\x20\x01\x01\x81\x00"),
        "long-varint": sealed(b"GIC\x02\0\x20" + b"\x80" * 8 + b"\x10\x01\x00"),
    }


if __name__ == "__main__":
    found = seeds()
    for old in HERE.glob("*.gic"):
        old.unlink()
    for name, data in found.items():
        (HERE / f"{name}.gic").write_bytes(data)
        print(f"{name:16} {len(data)} bytes")
