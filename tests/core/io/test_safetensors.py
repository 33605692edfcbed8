"""Our safetensors files: the same bytes for the same content; the wrong thing refused in one line with its remedy."""

import pickle
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from priorcodec import AdapterError, WeightsError
from priorcodec.core.io import safetensors

KIND = "priorcodec adapter 2"
TENSORS = {
    "b": torch.arange(6).reshape(2, 3),
    "a": torch.ones(5, dtype=torch.bfloat16),
    "c.ß": torch.zeros(0, 4, dtype=torch.float16),
}
METADATA = {"kind": KIND, **{f"key{i}": f"värde {i}" for i in range(12)}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.to_bytes(TENSORS, METADATA))
    return path


def test_what_goes_in_comes_out(path):
    metadata, tensors = safetensors.read(path, KIND, AdapterError)
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert safetensors.describe(path, AdapterError) == (METADATA, {"a": 5, "b": 6, "c.ß": 0})


def test_the_library_itself_reads_it_and_finds_aligned_tensors(path):
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    with safe_open(path, framework="pt") as file:
        assert dict(file.metadata()) == METADATA and torch.equal(file.get_tensor("b"), TENSORS["b"])


def test_the_same_content_is_the_same_bytes(path):
    turned = dict(reversed(TENSORS.items())), dict(reversed(METADATA.items()))
    assert {path.read_bytes(), *(safetensors.to_bytes(*turned) for _ in range(10))} == {path.read_bytes()}


def test_a_pickle_is_refused_unread(tmp_path):
    torch.save(TENSORS, tmp_path / "zip.pt")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps({"a": 1}))
    for path in tmp_path.iterdir():
        with pytest.raises(
            WeightsError, match="is not a readable encoder file .a pickle, which can run any code"
        ) as caught:
            safetensors.read(path, "priorcodec encoder 1", WeightsError)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wanted, remedy",
    [("priorcodec adapter 9", "update priorcodec or get"), ("priorcodec encoder 1", "give a file of that kind")],
)
def test_another_version_or_kind(path, wanted, remedy):
    with pytest.raises(AdapterError, match=f"is '{KIND}', wanted '{wanted}': {remedy}"):
        safetensors.read(path, wanted, AdapterError)


@pytest.mark.parametrize("content", [None, b"", b"\x08\0\0\0\0\0\0\0notjson!"])
def test_unreadable(tmp_path, content):
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AdapterError, match="is not a readable adapter file .*: ask again"):
        safetensors.read(path, KIND, AdapterError, "ask again")
    with pytest.raises(AdapterError, match="is not a readable safetensors file"):
        safetensors.describe(path, AdapterError)


def test_describing_loads_no_torch(path):
    code = (
        "import sys, pathlib; from priorcodec.core.io import safetensors as t; "
        f"t.describe(pathlib.Path({str(path)!r}), ValueError); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_what_is_not_finite_is_found_anywhere(dtype):
    values = torch.linspace(-3, 3, 70).to(dtype).reshape(7, 10)
    assert safetensors.is_finite(values) and safetensors.is_finite(values[:0])
    for odd in ("nan", "inf", "-inf"):
        for at in (0, 33, 69):
            spoiled = values.clone()
            spoiled.view(-1)[at] = float(odd)
            assert not safetensors.is_finite(spoiled)
    assert safetensors.is_finite(torch.ones(3).to(torch.float8_e4m3fn))
    assert not safetensors.is_finite(torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn))
    assert safetensors.is_finite(torch.arange(3)) and safetensors.is_finite(torch.ones(2, dtype=torch.bool))
