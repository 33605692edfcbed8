"""bfloat16 is used where the processor multiplies in it; emulated, it made a training step twelve times slower."""

from pathlib import Path

import pytest
import torch

from priorcodec.core.precision import autocast, bfloat16_is_fast
from priorcodec.training.settings import Precision

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("capability", "fast"), [("AVX2", False), ("DEFAULT", False), ("AVX512", True)])
def test_only_where_the_processor_multiplies_in_it(capability, fast, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert bfloat16_is_fast("cpu") == fast
    x = torch.ones(2, 2)
    with autocast("cpu"):
        assert (x @ x).dtype == (torch.bfloat16 if fast else torch.float32)
    with autocast("cpu", enabled=False):
        assert (x @ x).dtype == torch.float32


def test_training_chooses_it_by_the_processor(monkeypatch):
    for capability, fast in (("AVX2", False), ("AVX512", True)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)  # noqa: B023
        assert [choice.bfloat16("cpu") for choice in Precision] == [fast, True, False]
        assert Precision.auto.bfloat16("cuda")


def test_a_gpu_is_taken_to_be_fast():
    assert bfloat16_is_fast("cuda") and bfloat16_is_fast(torch.device("mps"))


def test_nothing_else_decides():
    """A second place would forget the processors that have no bfloat16."""
    for folder in ("priorcodec", "recipes", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "precision.py":
                lines = path.read_text().splitlines()
                assert not [line for line in lines if "torch.autocast(" in line and "dtype=" in line], path
