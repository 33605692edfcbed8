"""bfloat16 is used where the processor multiplies in it; emulated, it made a training step twelve times slower."""

from pathlib import Path

import pytest
import torch

from priorcodec.core.precision import autocast, bfloat16_is_fast
from priorcodec.training.settings import Precision

ROOT = Path(__file__).parents[2]


@pytest.fixture
def processor(monkeypatch):
    """processor("AVX512", bf16=True): what torch says of it."""

    def pretend(capability, *, bf16=False, amx=False):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    return pretend


@pytest.mark.parametrize(
    ("capability", "more", "fast"),
    [
        ("AVX2", {}, False), ("DEFAULT", {}, False), ("AVX512", {}, False),
        ("AVX512", {"bf16": True}, True), ("AVX512", {"amx": True}, True), ("SVE256", {}, True),
    ],
)  # fmt: skip
def test_only_where_the_processor_multiplies_in_it(capability, more, fast, processor):
    """Skylake to Ice Lake have AVX-512 without bfloat16: there it is four times slower than float32."""
    processor(capability, **more)
    assert bfloat16_is_fast("cpu") == fast
    x = torch.ones(2, 2)
    with autocast("cpu"):
        assert (x @ x).dtype == (torch.bfloat16 if fast else torch.float32)
    with autocast("cpu", enabled=False):
        assert (x @ x).dtype == torch.float32


def test_training_chooses_it_by_the_processor(processor):
    for fast in (False, True):
        processor("AVX512", bf16=fast)
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
