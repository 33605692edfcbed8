"""Run in a fresh process: decode one file through one backbone's tiny model; prints the image's hash as JSON.

arguments: backbone, folder of its weights or "-", encoder file, adapter file, .gic file
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.core.codec import Codec
from priorcodec.core.image import io as image_io
from priorcodec.registry import open_registry


def main(name: str, folder: str, encoder: Path, trained: Path, gic: Path) -> None:
    registry = open_registry()
    spec, codec = registry.spec(name), Codec(encoder)
    file = adapter_file.read(trained)
    adapter_file.check(file, spec, encoder_id=codec.id)
    weights = None if folder == "-" else registry.weights(spec, folder)
    backbone = spec.build(weights, dtype=torch.float32) if weights else spec.build_tiny()
    adapter = Adapter(spec, file.config, m=codec.transforms.config.m, levels=codec.levels, tiny=True)
    adapter.inject(backbone)
    adapter_file.load(file, adapter)
    decoded = codec.decode(gic.read_bytes())
    with torch.inference_mode():
        preview = codec.preview_tensor(decoded, perceptual=True)
        z = adapter(decoded.y_hat, torch.tensor([decoded.quality]), preview).z
        pixels = image_io.to_pixels(image_io.crop(backbone.to_pixels(z), decoded.height, decoded.width))
    text_models = sorted(
        n for n in sys.modules if n.startswith(("transformers.models.clip.modeling", "transformers.models.t5.m"))
    )
    result = {"shape": pixels.shape, "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(), "text_models": text_models}
    print(json.dumps(result | {"symbols": decoded.symbols_sha256, "spread": float(pixels.std())}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:]))
