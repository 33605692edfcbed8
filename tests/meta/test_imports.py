"""Importing the package stays cheap: what users and plugin authors import first loads no torch."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "diffusers", "peft", "transformers", "compressai", "accelerate"}


@pytest.mark.parametrize(
    "statement",
    [
        "import priorcodec",
        "from priorcodec import BackboneSpec, hookimpl",
        "import priorcodec.backbones.spec",
        "import priorcodec.core.container",
        "import priorcodec.core.image.io",
        "import priorcodec.registry",
    ],
)
def test_loads_nothing_heavy(statement):
    code = f"{statement}\nimport sys\nprint(*sorted(sys.modules.keys() & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_list_of_heavy_packages_bites():
    code = f"import torch, sys\nprint(*sorted(sys.modules.keys() & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch"]


def test_every_public_name_exists_or_is_loaded_on_demand():
    import priorcodec

    assert [name for name in priorcodec.__all__ if not hasattr(priorcodec, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = priorcodec.nonsense
