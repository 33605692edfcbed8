"""WEIGHTS.md describes exactly the files that ship, and they are small enough."""

import hashlib
import re

from priorcodec.core.codec import WEIGHTS


def test_every_shipped_file_is_described_with_its_hash_and_size():
    text = (WEIGHTS / "WEIGHTS.md").read_text()
    rows = dict(re.findall(r"^\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|", text, re.MULTILINE))
    files = {path.name: path for path in WEIGHTS.glob("*.safetensors")}
    assert set(rows) == set(files)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == rows[name]


def test_all_weights_fit_in_64_mib():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 64 * 2**20
