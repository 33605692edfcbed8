"""What is committed: no path of somebody's machine, the layering holds, the demo image names its source."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACHINE = re.compile(rb"(?<![\w./~:-])(/(?:home|Users|root|work|tmp|mnt|opt)/[\w.][\w./-]+|[A-Z]:\\\\?Users)")
ALLOWED = {Path("tests/meta/test_repository.py")}


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [Path(name) for name in listed.stdout.decode().split("\0") if name]


def machine_paths(data: bytes) -> list[str]:
    return [] if b"\0" in data[:8192] else [found.decode() for found in MACHINE.findall(data)]


def test_no_path_of_a_machine():
    files = [path for path in committed() if path not in ALLOWED and (ROOT / path).is_file()]
    assert len(files) > 20
    assert {str(path): found for path in files if (found := machine_paths((ROOT / path).read_bytes()))} == {}


@pytest.mark.parametrize("text", ["see /home/jo/x.py", "'/work/shared/a.md'", '"/tmp/run1/log"', r"C:\Users\jo"])
def test_the_search_for_paths_bites(text):
    assert machine_paths(text.encode())


@pytest.mark.parametrize(
    "text", ["https://a.org/home/jo/x", "./tmp/x", "PYTHON=/path/to/python3.12", "1/tmp", "b\0/tmp/x"]
)
def test_the_search_for_paths_spares_others(text):
    assert machine_paths(text.encode()) == []


def test_the_demo_photograph_loads_and_names_its_source():
    from priorcodec.core.image import io as image_io

    folder = ROOT / "priorcodec" / "demo"
    source = (folder / "SOURCE.md").read_text()
    images = [path for path in folder.iterdir() if path.suffix in (".png", ".webp", ".jpg")]
    assert images
    for path in images:
        loaded = image_io.load(path)
        assert loaded.notes == () and min(loaded.pixels.shape[:2]) >= 256
        assert path.stat().st_size <= 400_000
        assert path.name in source and "CC0" in source


def test_the_table_of_where_to_change_what_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2] for line in text.splitlines() if line.startswith("| ") and line.count("|") == 3]
    places = [re.findall(r"`([^`]+)`", row) for row in rows[1:]]
    assert len(places) >= 10 and all(places)
    for first, *others in places:
        folder = Path(first) if first.endswith("/") else Path(first).parent
        for name in (first, *others):
            path = ROOT / (name if "/" in name else folder / name)
            assert path.exists() or list(path.parent.glob(path.name.replace("NAME", "*"))), name
