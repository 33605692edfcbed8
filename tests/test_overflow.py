"""Numbers that go wrong in half precision: float32 for that image and a warning, or one line; never a wrong image."""

import dataclasses
import types

import numpy as np
import pytest
import torch

from priorcodec import PriorCodecError, hookimpl, open_session
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters import rules
from priorcodec.adapters.adapter import Adapter
from priorcodec.batch import runner
from priorcodec.batch.jobs import Job
from priorcodec.batch.tasks import Decode
from priorcodec.core.errors import PrecisionWarning
from priorcodec.core.image import io as image_io
from priorcodec.registry import open_registry
from priorcodec.registry.plugins import Candidate
from tests.adapters.conftest import TINY
from tests.helpers import DEMO


def loud(backbone):
    """An output near a million: finite in float32 and bfloat16, infinite in float16. No weight is."""
    with torch.no_grad():
        backbone.module.conv_norm_out.weight.mul_(100)
        backbone.module.conv_out.weight.mul_(20000)


def broken(backbone):
    with torch.no_grad():
        backbone.module.conv_out.bias[0] = float("nan")


def overflowing_autoencoder(backbone):
    with torch.no_grad():
        backbone.vae.decoder.conv_norm_out.weight.mul_(300)
        backbone.vae.decoder.conv_out.weight.mul_(20000)


@pytest.fixture
def session_with(tmp_path):
    """session_with("float16", loud): Stable Diffusion's own classes, tiny, spoilt, with a fresh adapter."""
    original = open_registry().spec("sd15")

    def make(dtype, spoil):
        def build(weights, *, dtype):
            backbone = original.build_tiny()
            spoil(backbone)
            for part in (backbone.module, backbone.vae):  # as `build` does: the schedule stays as it is
                torch.nn.Module.to(part.half(), dtype)
            return backbone

        spec = dataclasses.replace(
            rules.tiny_spec(original),
            name="tiny",
            build=build,
        )
        plugin = types.SimpleNamespace(priorcodec_backbones=hookimpl(lambda: [spec]))
        registry = open_registry()
        given = Candidate(name="tiny", origin="test", distribution="", version="", load=lambda: plugin)
        assert not registry.add(given).error
        (tmp_path / "none.safetensors").touch()  # `build` needs no weights
        path = tmp_path / "adapter.safetensors"
        session = open_session(
            "tiny",
            weights=str(tmp_path / "none.safetensors"),
            adapter=str(path),
            dtype=dtype,
            device="cpu",
            registry=registry,
        )
        torch.manual_seed(0)
        adapter = Adapter(spec, TINY, m=session.codec.transforms.config.m, levels=session.codec.levels)
        adapter.inject(build(None, dtype=torch.float32))
        adapter_file.save(adapter, path, encoder_id=session.codec.id, metadata={}, dtype=torch.float32)
        return session

    return make


@pytest.fixture(scope="module")
def data():
    return open_session().encode(image_io.load(DEMO).pixels[:60, :50], quality=2)


def weights(session):
    return {k: v.clone() for k, v in session.adapter.attached.state_dict().items()}


@pytest.mark.parametrize("spoil", [loud, overflowing_autoencoder])
def test_an_overflow_in_float16_is_decoded_in_float32_with_a_warning(session_with, data, spoil):
    wanted = session_with("float32", spoil).decode(data, output="np")
    session = session_with("float16", spoil)
    before = weights(session)
    for _ in range(2):  # of every image
        with pytest.warns(
            PrecisionWarning, match="tiny overflowed in float16, so this image was decoded in float32"
        ) as said:
            got = session.decode([data], output="np")[0]
        assert len(said) == 1 and "\n" not in str(said[0].message) and said[0].filename == __file__
        assert np.abs(got.astype(int) - wanted).mean() < 0.01
    after = weights(session)
    assert all(v.dtype == after[k].dtype and torch.equal(v, after[k]) for k, v in before.items())
    assert after["module.conv_out.weight"].dtype == torch.float16


@pytest.mark.parametrize("dtype, spoil", [("float16", lambda backbone: None), ("bfloat16", loud), ("float32", loud)])
def test_what_does_not_overflow_warns_nobody(session_with, data, dtype, spoil, recwarn):
    assert session_with(dtype, spoil).decode(data, output="np").shape == (60, 50, 3)
    assert not [w for w in recwarn if issubclass(w.category, PrecisionWarning)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_float32_cannot_mend_is_an_error_in_one_line(session_with, data, dtype):
    with pytest.raises(
        PriorCodecError, match="tiny answered with values that are not finite, in float32 too"
    ) as caught:
        session_with(dtype, broken).decode(data, output="np")
    assert "\n" not in str(caught.value)


def test_a_folder_run_names_the_image_and_writes_no_black_one(session_with, data, tmp_path, caplog, monkeypatch):
    (tmp_path / "gic").mkdir()
    (tmp_path / "gic" / "a.gic").write_bytes(data)

    def run(spoil):
        session = session_with("float16", spoil)
        with monkeypatch.context() as patch:
            patch.setattr("priorcodec.session.Session", lambda *args, **kwargs: session)
            jobs = [Job(source=tmp_path / "gic" / "a.gic", target=tmp_path / "gic" / "a.tiny.png")]
            runner.run_jobs(jobs, Decode(config=session.config), label="decoding")

    run(loud)
    (warned,) = caplog.messages
    assert warned.startswith("warning: ") and "a.gic: tiny overflowed" in warned and "\n" not in warned
    (tmp_path / "gic" / "a.tiny.png").unlink()
    with pytest.raises(PriorCodecError):
        run(broken)
    assert not (tmp_path / "gic" / "a.tiny.png").exists()
