"""The golden files hold their symbols under every setting of `tests/golden/check.py`; a float hyper-decoder's would not."""

import copy
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.entropy.entropy_model import QUALITY_STEPS
from priorcodec.core.entropy.frozen import ExactPrior
from priorcodec.core.entropy.integer import WEIGHT_BITS
from tests.golden.check import COMPILER, FOLDER, SETTINGS, disagreements, golden, under

ON_A_CPU = [name for name, setting in SETTINGS.items() if setting.device == "cpu" and not setting.compiled]
FILES = golden()
STREAMS = {name: container.unpack(data) for name, (data, _) in FILES.items()}
LARGE = {name: FILES[name] for name, stream in STREAMS.items() if stream.height * stream.width >= 500_000}
SMALL = {name: FILES[name] for name, stream in STREAMS.items() if stream.height * stream.width < 500_000}


@pytest.fixture(scope="module")
def codec():
    return Codec()


def test_the_set_is_what_it_should_be(codec):
    assert len(FILES) >= 40 and {path.stem for path in FOLDER.glob("*.gic")} == set(FILES)
    assert sum(len(data) for data, _ in FILES.values()) < 600_000
    assert len({symbols for _, symbols in FILES.values()}) == len(FILES)
    assert {stream.encoder_id for stream in STREAMS.values()} == {codec.id}
    assert {row["encoder"] for row in json.loads((FOLDER / "symbols.json").read_text()).values()} == {f"{codec.id:08x}"}
    qualities = {stream.quality for stream in STREAMS.values()}
    assert qualities >= {QUALITY_STEPS * level for level in range(codec.levels)}
    assert sum(quality % QUALITY_STEPS != 0 for quality in qualities) >= 8
    sizes = {(stream.width, stream.height) for stream in STREAMS.values()}
    assert sizes >= {(1, 1), (2049, 1025), (1025, 2049), (257, 65)} and len(sizes) >= 30
    kinds = [name.partition("-")[0] for name in FILES]
    assert min(kinds.count(kind) for kind in ("photo", "generated", "flat", "gradient", "noise", "text")) >= 5


def agree(record_property, codec, files, name):
    record_property("tries", len(files))
    assert disagreements(codec, files, SETTINGS[name]) == []


def test_every_file_holds_its_symbols(codec, record_property):
    agree(record_property, codec, FILES, "1 thread")


@pytest.mark.parametrize("name", ON_A_CPU[1:])
def test_no_setting_changes_a_symbol(codec, name, record_property):
    assert len(SMALL) >= 40
    agree(record_property, codec, SMALL, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_A_CPU[1:])
def test_no_setting_changes_a_symbol_of_a_large_file(codec, name, record_property):
    agree(record_property, codec, LARGE, name)


def test_the_script_in_another_process():
    done = subprocess.run([sys.executable, FOLDER / "check.py", "1 thread, no mkldnn"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(FILES)} files, all agree" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_networks_change_no_symbol(codec, record_property):
    if not COMPILER:
        pytest.skip("torch.compile needs a C++ compiler on the PATH")
    agree(record_property, codec, FILES, "torch.compile")


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.device == "cuda"])
def test_a_gpu_changes_no_symbol(name, record_property):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    agree(record_property, Codec(device="cuda"), FILES, name)


class FloatPrior(ExactPrior):
    """The same networks as most learned codecs have them: convolutions in torch's dtype, nothing rounded on the way."""

    def _layer(self, name, a, *, relu=True):
        weight, bias = (self.tables[f"{name}.{part}"].to(torch.get_default_dtype()) for part in ("weight", "bias"))
        out = F.conv2d(a.to(weight.dtype)[None], weight, bias, padding=weight.shape[-1] // 2)[0] / (1 << WEIGHT_BITS)
        return (out.relu() if relu else out).double()


@pytest.fixture(scope="module")
def float_coded(codec):
    """A codec with a float hyper-decoder, and the large golden images coded by it."""
    other, files = copy.copy(codec), {}
    other.prior = FloatPrior(codec.prior.tables)
    with torch.inference_mode(), under(SETTINGS["1 thread"]):
        for name, (data, _) in LARGE.items():
            stream, y_hat_q, _ = codec.read(data)
            y = codec.transforms.dequantize(y_hat_q[None], torch.tensor([stream.quality / QUALITY_STEPS]))
            coded = other._write(y, (stream.height, stream.width), (), stream.quality)
            files[name] = coded.data, coded.symbols_sha256
    return other, files


def test_a_float_hyper_decoder_fails_somewhere(float_coded, record_property):
    """The same harness finds what it looks for: where it was written such a file reads, under another setting it does not."""
    other, files = float_coded
    assert disagreements(other, files, SETTINGS["1 thread"]) == []
    wrong = {name: disagreements(other, files, SETTINGS[name]) for name in ON_A_CPU[1:]}
    record_property("found", {name: f"{len(found)} of {len(files)}" for name, found in wrong.items()})
    assert wrong.pop("bf16 autocast") and any(wrong.values()), wrong
