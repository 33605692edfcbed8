"""Entropy coding is exact in any shape, in numpy alone, whatever the threads and the kernels of the library."""

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.entropy import exact
from priorcodec.core.entropy.frozen import FrozenEntropyModel
from priorcodec.core.entropy.tables import INDEX_BIAS, INDEX_GAIN, QUALITY_STEPS, check_tables, gaussian_tables
from priorcodec.core.errors import StreamError
from priorcodec.core.exact_reader import ExactReader, sizes
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from tests.golden.check import ENCODER

SMALL = EncoderConfig(n8=8, n16=8, m=12, groups=(2, 4, 6), m_h=4, n=8, depth8=1, depth16=1, levels=3)


def small_model() -> FrozenEntropyModel:
    torch.manual_seed(0)
    model = ImageEncoder(SMALL).entropy
    for parameter in model.parameters():  # away from the symmetric start, so that every network matters
        parameter.data += 0.3 * torch.randn_like(parameter)
    tables = model.tables() | gaussian_tables()
    check_tables(tables, sizes(vars(SMALL)))
    return FrozenEntropyModel(tables)


def latents(scale: float = 3.0, size=(8, 12)):
    dice = np.random.default_rng(1)
    y, z = dice.normal(size=(SMALL.m, *size)), dice.normal(size=(SMALL.m_h, size[0] // 4, size[1] // 4))
    return (scale * y).astype(np.float32), (scale * z).astype(np.float32)


@pytest.mark.parametrize("quality", [0, 17, 32])
@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0, 3000.0, 1e9])
def test_round_trip(quality, scale):
    model = small_model()
    coded = model.encode(*latents(scale), quality)
    values, digest = model.decode(coded.string, quality, 8, 12)
    assert digest == coded.symbols_sha256
    np.testing.assert_array_equal(values, coded.y_hat_q)


@pytest.mark.parametrize("size", [(4, 4), (4, 400), (400, 4), (36, 52)])
def test_strips_of_any_shape_change_nothing(size, monkeypatch):
    coded = small_model().encode(*latents(3.0, size), 17)
    monkeypatch.setattr(exact, "MAX_GATHERED", 1000)
    monkeypatch.setattr("priorcodec.core.entropy.frozen.GROUP", 50)
    model = small_model()
    assert model.encode(*latents(3.0, size), 17).string == coded.string
    values, digest = model.decode(coded.string, 17, *size)
    np.testing.assert_array_equal(values, coded.y_hat_q)
    assert digest == coded.symbols_sha256


def test_values_are_within_half_a_step_where_they_are_coded():
    y, z = latents()
    model = small_model()
    model.y_coder.certain = 0
    assert np.abs(model.encode(y, z, 5).y_hat_q - y).max() <= 0.5 + 1e-6


def test_a_certain_zero_is_forced_and_costs_nothing():
    tables = dict(small_model().tables)
    for head in (name.removesuffix(".weight") for name in tables if name.endswith("last.weight")):
        tables[f"{head}.weight"] = np.zeros_like(tables[f"{head}.weight"])
        below = -(2**18) * (INDEX_BIAS - SMALL.certain + 1) // INDEX_GAIN
        tables[f"{head}.bias"] = np.repeat(np.array([0, below], np.int32), len(tables[f"{head}.bias"]) // 2)
    model = FrozenEntropyModel(tables, SMALL.certain)  # mean 0, the last table that is certain
    y, z = latents(50.0)
    coded = model.encode(y, z, 17)
    assert not coded.y_hat_q.any() and coded.y_bits == 0
    assert model.decode(coded.string, 17, 8, 12)[1] == coded.symbols_sha256
    one_less = FrozenEntropyModel(tables, SMALL.certain - 1)
    assert one_less.encode(y, z, 17).y_hat_q.any()


def test_estimated_bits_are_the_length_of_the_string():
    coded = small_model().encode(*latents(3.0, (48, 48)), 5)
    assert 0 <= len(coded.string) - (coded.z_bits + coded.y_bits) / 8 <= 1 + 1e-3 * len(coded.string)


PROBE = """
import json, sys
sys.modules["torch"] = None
sys.path.insert(0, {root!r})
import numpy as np
from priorcodec.core.entropy.frozen import FrozenEntropyModel
tables = dict(np.load({tables!r}))
string = bytes.fromhex(sys.stdin.read())
print(FrozenEntropyModel(tables).decode(string, 17, 40, 56)[1])
"""


def test_other_processes_threads_and_kernels_read_the_same_symbols_without_torch(pytestconfig, tmp_path):
    model = small_model()
    coded = model.encode(*latents(3.0, (40, 56)), 17)
    np.savez(tmp_path / "tables.npz", **model.tables)
    code = PROBE.format(root=str(pytestconfig.rootpath), tables=str(tmp_path / "tables.npz"))
    for threads, kernels in ((1, "Haswell"), (2, "Haswell"), (2, "Nehalem")):
        blas = {"OPENBLAS_NUM_THREADS": str(threads), "OPENBLAS_CORETYPE": kernels}
        command = [sys.executable, "-c", code]
        out = subprocess.run(
            command, input=coded.string.hex(), capture_output=True, text=True, env={**os.environ, **blas}
        )
        assert out.stdout.strip() == coded.symbols_sha256, out.stderr


def test_reading_symbols_imports_no_torch_and_no_pillow(pytestconfig):
    code = f"""
import json, sys
sys.path.insert(0, {str(pytestconfig.rootpath)!r})
from priorcodec.core.exact_reader import ExactReader
from tests.golden.check import ENCODER, golden
data, digest = golden()["photo-17x15-q10.5"]
assert ExactReader.load(ENCODER).read(data)[2] == digest
print(sorted(name for name in ("torch", "PIL", "pluggy", "diffusers") if name in sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr


class NoFloat64(TorchDispatchMode):
    """A device without float64, as mps is: torch raises there what this raises."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        parts = out if isinstance(out, tuple | list) else [out]
        if any(isinstance(part, torch.Tensor) and part.dtype == torch.float64 for part in parts):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return out


def test_a_device_without_float64_encodes_previews_and_decodes():
    codec, pixels = Codec(), np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    wanted = codec.encode(pixels, 3)
    with NoFloat64():
        with pytest.raises(TypeError):
            torch.zeros(1, dtype=torch.float64)
        encoded = codec.encode(pixels, 3)
        decoded = codec.decode(encoded.data)
        assert codec.preview(decoded).shape == pixels.shape
    assert encoded.data == wanted.data


def test_strings_that_are_cut_or_forged_end_in_an_error_or_in_symbols_never_elsewhere():
    model, dice = small_model(), np.random.default_rng(0)
    coded = model.encode(*latents(), 17)
    for _ in range(150):
        forged = dice.bytes(int(dice.integers(0, 90)))
        for string in (forged, coded.string[: len(forged)], coded.string + forged, b"\xff" * len(forged)):
            try:
                values, _ = model.decode(string, 17, 8, 12)
            except StreamError as error:
                assert "\n" not in str(error)
            else:
                assert values.shape == (SMALL.m, 8, 12)


@pytest.fixture(scope="module")
def reader():
    return ExactReader.load(ENCODER)


def shortest(reader, quality, height, width):
    """Bytes of the shortest string that passes for an image of this size."""
    h, w = (side // 64 for side in container.padded(height, width))
    low, high = -1, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        try:
            reader.entropy_model.check_length(middle, quality, h, w)
            high = middle
        except StreamError:
            low = middle
    return high


@given(
    st.integers(1, 65535), st.integers(1, 65535), st.integers(0, 11), st.booleans(), st.binary(min_size=16, max_size=16)
)
@settings(max_examples=15, deadline=None)
def test_memory_and_work_of_the_shortest_file_are_bounded_by_its_length(reader, height, width, level, wide, noise):
    """Random sizes, one side cut so that the padded image has at most 2**20 pixels; its shortest string, of any content."""
    limit = 2**20
    if wide:
        height = min(height, 64 * max(1, limit // 64 // (-(-width // 64) * 64)))
    else:
        width = min(width, 64 * max(1, limit // 64 // (-(-height // 64) * 64)))
    rows, columns = container.padded(height, width)
    length = shortest(reader, QUALITY_STEPS * level, height, width)
    string = (noise * (length // 16 + 1))[: max(0, length - 1)] + b"\1" * (length > 0)
    content = container.Container(
        encoder_id=reader.encoder_id, quality=QUALITY_STEPS * level, height=height, width=width, string=string
    )
    data, done = container.pack(content), []
    product = exact.ExactLayer.product

    def counted(self, columns):
        done.append(len(columns) * self.matrix.size)
        return product(self, columns)

    exact.ExactLayer.product = counted
    tracemalloc.start()
    try:
        reader.read(data)
    except StreamError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        exact.ExactLayer.product = product
    blocks = rows * columns // 4096
    assert 8 * (length + 8) >= 0.8 * blocks  # every 64x64 pixels that are worked on cost bits
    assert sum(done) <= 1.1e7 * blocks and sum(done) <= 1.1e8 * (len(data) + 8)
    assert peak <= 80e6 + 1.5e5 * blocks and peak <= 80e6 + 1.5e6 * len(data)


def test_one_byte_less_than_the_shortest_is_refused_before_anything_is_allocated(reader):
    length = shortest(reader, 0, 8192, 8192)
    assert length > 1500
    tracemalloc.start()
    with pytest.raises(StreamError, match="an image of this size needs"):
        reader.entropy_model.decode(b"\1" * (length - 1), 0, 512, 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("size", [(1, 65535), (65535, 1)])
@pytest.mark.parametrize("shipped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_longest_strip_of_an_image(reader, size, shipped):
    """One pixel wide, as long as a file can say: both directions, within the memory of any other image of its padded area."""
    model, (rows, columns) = reader.entropy_model if shipped else small_model(), container.padded(*size)
    y = np.zeros((model.m, rows // 16, columns // 16), np.float32)
    y[:, 0, 0] = y[:, -1, -1] = 9
    tracemalloc.start()
    coded = model.encode(y, np.zeros((model.m_h, rows // 64, columns // 64), np.float32), 32)
    values, digest = model.decode(coded.string, 32, rows // 16, columns // 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert digest == coded.symbols_sha256
    np.testing.assert_array_equal(values, coded.y_hat_q)
    assert peak < (250e6 if shipped else 80e6)
