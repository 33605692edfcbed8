"""What the shipped decoders make of golden files, as means and spreads of 16x16 blocks: a changed decode fails.

`python tests/backbones/test_golden_blocks.py` writes golden_blocks.json again; do so when weights or golden files change, and
look at the images first. Written by the shipped decoders in float32 on the CPU; other processors differ by a few hundredths.
"""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from priorcodec import open_session

HERE = Path(__file__).parent
KEPT = HERE / "golden_blocks.json"
FILES = {name: HERE.parent / "golden" / f"{name}.gic" for name in ("photo-128x96-q11", "photo-193x161-q4.6875")}
DECODERS = ("preview", "perceptual", "nano_pixel", "nano_dit", "toy")
PREVIEWS = DECODERS[:2]
BLOCK = 16
TOLERANCE = 0.03  # levels of 255, mean over all blocks: last bits give 0.001, the mutations below 0.1 and more


def blocks(image: np.ndarray) -> dict[str, list[float]]:
    """uint8 (h, w, 3) -> mean of each channel and standard deviation of the gray image, per whole block of 16x16."""
    h, w = (side // BLOCK for side in image.shape[:2])
    parts = image[: h * BLOCK, : w * BLOCK].reshape(h, BLOCK, w, BLOCK, 3).astype(np.float64)
    return {
        "mean": parts.mean((1, 3)).round(2).ravel().tolist(),
        "std": parts.mean(-1).std((1, 3)).round(2).ravel().tolist(),
    }


def differs(got: dict[str, list[float]], wanted: dict[str, list[float]]) -> float:
    """Mean absolute difference of the blocks' means or of their spreads, whichever is larger, in levels."""
    return max(float(np.abs(np.subtract(got[key], wanted[key])).mean()) for key in ("mean", "std"))


def decoded(session, decoder: str, file: Path) -> np.ndarray:
    if decoder in PREVIEWS:
        return session.preview(file, output="np", perceptual=decoder == "perceptual")
    return session.decode(file, output="np")


def session_of(decoder: str):
    return open_session("nano_pixel" if decoder in PREVIEWS else decoder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def kept():
    return json.loads(KEPT.read_text())


def test_the_kept_blocks_are_of_these_files(kept):
    for name, path in FILES.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert kept["files"][name] == digest, f"golden file {name} was remade: write golden_blocks.json again"


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_shipped_decoder_makes_the_same_image_as_before(kept, decoder):
    session = session_of(decoder)
    for name, file in FILES.items():
        assert differs(blocks(decoded(session, decoder, file)), kept["blocks"][decoder][name]) < TOLERANCE, name


def silence_refiner(adapter):
    with torch.no_grad():
        adapter.refiner.tail.weight.zero_()


def start_later(adapter):
    adapter.config = dataclasses.replace(adapter.config, start=tuple(1.5 * t for t in adapter.config.start))


@pytest.mark.parametrize("decoder", ["nano_pixel", "nano_dit"])
@pytest.mark.parametrize("mutate", [silence_refiner, start_later])
def test_a_mutated_decoder_is_noticed(kept, decoder, mutate):
    session = session_of(decoder)
    mutate(session.adapter)
    worst = max(
        differs(blocks(decoded(session, decoder, file)), kept["blocks"][decoder][name]) for name, file in FILES.items()
    )
    assert worst > 2 * TOLERANCE


def main() -> None:
    sessions = {decoder: session_of(decoder) for decoder in DECODERS}
    content = {
        "command": "python tests/backbones/test_golden_blocks.py",
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in FILES.items()},
        "blocks": {
            decoder: {name: blocks(decoded(session, decoder, file)) for name, file in FILES.items()}
            for decoder, session in sessions.items()
        },
    }
    KEPT.write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
