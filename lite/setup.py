"""Builds the wheel: the package, and copies of what `shared` names. Everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
import shared

MODELS = "priorcodec_lite/models"


class BuildWithShared(build_py):
    def run(self):
        if not (Path(__file__).parent / MODELS / "manifest.json").exists():
            raise SystemExit(f"lite/{MODELS} has no graphs: run `make lite`, which exports them")
        super().run()
        shared.copy(Path(self.build_lib) / "priorcodec_lite")


setup(cmdclass={"build_py": BuildWithShared})
