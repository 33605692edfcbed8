"""Release an encoder: python -m recipes.encoder2.release CHECKPOINT.pt CACHE [--crops 200].

CHECKPOINT: {"average": state of `ImageEncoder`, ...}, or a run folder's of `priorcodec train encoder`; CACHE: crops as made by
`recipes.encoder2.crops`. In this order:
    tables fitted to the symbols of training crops at every level
    priorcodec/weights/encoder.safetensors, and its line in manifest.json
    tests/golden and tests/corpus: every file and symbols.json
    priorcodec/weights/WEIGHTS.md: hashes, sizes and the id; its prose is edited by hand
The adapters of the package are for the encoder before, unless the id stayed: the names of those to train again are printed
(recipes/gpu/assemble.py, recipes/toy.py), and tests/backbones/golden_blocks.json is written when there are none.
Nothing is random: the same checkpoint gives the same id on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from priorcodec.adapters import file as adapter_file
from priorcodec.core import shipped
from priorcodec.core.io import atomic
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import save_encoder
from priorcodec.training.frequencies import count
from recipes.encoder2.crops import Crops

LICENSE = "Apache-2.0; trained on research-use images, see WEIGHTS.md"
ROOT = Path(__file__).parents[2]
GOLDEN = "tests.golden.make"  # what it writes changes with the id
BLOCKS = "tests.backbones.test_golden_blocks"  # and with every adapter


def load(path: Path) -> tuple[ImageEncoder, dict[str, Any]]:
    """The averaged weights of a checkpoint, and the checkpoint."""
    saved = torch.load(path, map_location="cpu")
    model = ImageEncoder(EncoderConfig())
    average = saved.get("average", saved)
    if isinstance(average, list):  # of `priorcodec train encoder`: in the order of the parameters
        average = {name: value for (name, _), value in zip(model.named_parameters(), average, strict=True)}
    model.load_state_dict(average)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last), saved  # pyright: ignore


def pin(path: Path) -> str:
    """Write a file's SHA-256 into the manifest beside it, made if there is none. Returns it."""
    lines = path.parent / "manifest.json"
    manifest = json.loads(lines.read_text(encoding="utf-8")) if lines.exists() else {}
    manifest[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    lines.write_text(f"{json.dumps(dict(sorted(manifest.items())), indent=2)}\n", encoding="utf-8")
    shipped.manifest.cache_clear()
    return manifest[path.name]


def describe(identity: int) -> None:
    """Bring the table and the id of WEIGHTS.md up to date."""
    page, manifest = shipped.FOLDER / "WEIGHTS.md", json.loads((shipped.FOLDER / "manifest.json").read_text("utf-8"))
    lines, sizes = page.read_text(encoding="utf-8").split("\n"), {}
    for name, digest in manifest.items():
        sizes[name] = (shipped.FOLDER / name).stat().st_size / 2**20
        at = next(i for i, line in enumerate(lines) if line.startswith(f"| `{name}` |"))
        lines[at] = re.sub(r"[0-9a-f]{64}", digest, re.sub(r"[\d.]+ MiB", f"{sizes[name]:.1f} MiB", lines[at]))
    text = re.sub(r"[\d.]+ MiB in all", f"{sum(sizes.values()):.1f} MiB in all", "\n".join(lines))
    text = re.sub(r"`[0-9a-f]{8}`(?=\. \*\*This encoder)", f"`{identity:08x}`", text)
    atomic.write(page, text.encode())


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("checkpoint", type=Path)
    cli.add_argument("cache", type=Path)
    cli.add_argument("--crops", type=int, default=200, help="training crops whose symbols are counted")
    given = cli.parse_args()
    model, saved = load(given.checkpoint)
    source = Crops(given.cache, seed=4242)
    counts = count(model, (source.crop(0, slot, 256, enlarged=0.2) for slot in range(given.crops)))
    for kind, found in counts.counts.items():
        print(f"{kind}: {found.sum():.0f} symbols counted in {(found.sum(1) > 0).sum()} tables")
    note = {"steps": str(saved.get("step")), "minutes": f"{saved.get('minutes', 0):.0f}", "license": LICENSE}
    identity = save_encoder(model, shipped.ENCODER, note, frequencies=counts.tables())
    pin(shipped.ENCODER)
    print(f"encoder {identity:08x}: {shipped.ENCODER.stat().st_size / 2**20:.1f} MiB, {note}")
    adapters = sorted(shipped.FOLDER.glob("*.adapter.safetensors"))
    missing = [path.name for path in adapters if adapter_file.read(path).metadata["encoder"] != f"{identity:08x}"]
    make(GOLDEN)
    describe(identity)
    if missing:
        print(f"once {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} made again: python -m {BLOCKS}")
    else:
        make(BLOCKS)


def make(module: str) -> None:
    """Run a module that writes files of the tests."""
    subprocess.run([sys.executable, "-m", module], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
