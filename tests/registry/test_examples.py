"""The two example packages of docs/plugins, installed as a user would and found by entry point; the adapter example."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from priorcodec.registry import open_registry
from priorcodec.registry.plugins import Candidate

DOCS = Path(__file__).parents[2] / "docs" / "plugins"
ROOT = Path(__file__).parents[2]


def pip_install(package, tmp_path):
    """Into a folder of its own; offline, with the build tools that are here."""
    pytest.importorskip("setuptools")
    source = shutil.copytree(package, tmp_path / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    target = tmp_path / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    return target


def run(target, *command):
    path = os.pathsep.join([str(target), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "PRIORCODEC_STRICT_PLUGINS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, cwd=target, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("folder", "test", "name"),
    [
        ("hello", "test_hello.py", "hello"),  # priorcodec_hello.py, priorcodec_hello_model.py, pyproject.toml
        # priorcodec_sd3/__init__.py, model.py
        pytest.param("plugin-demo", "test_sd3.py", "sd3", marks=pytest.mark.slow),
    ],
)
def test_installed_found_by_entry_point_and_green(folder, test, name, tmp_path):
    target = pip_install(DOCS / folder, tmp_path)
    code = f"from priorcodec.registry import open_registry; print(open_registry().spec('{name}').summary)"
    status, output = run(target, "-c", code)
    assert status == 0, output
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(target))
    status, output = run(target, "-m", "pytest", *options, str(DOCS / folder / test))
    assert status == 0, output
    assert " passed" in output
    assert "failed" not in output


def test_the_demo_is_listed_without_loading_it(tmp_path):
    target = pip_install(DOCS / "plugin-demo", tmp_path)
    code = """
import sys
from priorcodec.registry import open_registry
registry = open_registry()
spec = registry.spec("sd3")
assert [r.origin for r in registry.plugins() if r.name == "sd3"] == ["package priorcodec-sd3"]
assert "torch" not in sys.modules
"""
    status, output = run(target, "-c", code)
    assert status == 0, output


def test_the_adapter_example():
    """adapters_example.py brings an adapter for sd15 and for nobody else."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import adapters_example
    finally:
        sys.path.pop(0)
    registry = open_registry()
    before = len(registry.adapters(registry.spec("sd15")))
    candidate = Candidate(name="x", origin="test", distribution="", version="", load=lambda: adapters_example)
    assert registry.add(candidate).error == ""
    names = [source.name for source in registry.adapters(registry.spec("sd15"))]
    assert len(names) == before + 1
    assert "sharp" in names
    assert "sharp" not in [source.name for source in registry.adapters(registry.spec("sdxl"))]
