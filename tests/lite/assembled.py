"""The package priorcodec_lite as its wheel holds it, without graphs: the sources in lite/ and the modules that are shared."""

import importlib.util
import shutil
from pathlib import Path

LITE = Path(__file__).parents[2] / "lite"


def shared():
    """The module lite/shared.py."""
    spec = importlib.util.spec_from_file_location("shared", LITE / "shared.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assemble(folder):
    """Write FOLDER/priorcodec_lite; returns the folder, for the path of modules."""
    package = folder / "priorcodec_lite"
    shutil.copytree(LITE / "priorcodec_lite", package, ignore=shutil.ignore_patterns("models", "__pycache__"))
    shared().copy(package)
    return folder
