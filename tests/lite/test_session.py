"""priorcodec_lite against torch, with the toy's graphs: the same images within one level, and the command `gic`."""

import contextlib
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from priorcodec import open_session
from priorcodec.backbones.diffusion import seeded_noise
from priorcodec.cli import app
from priorcodec.core import container
from priorcodec.core.exact_reader import ExactReader
from priorcodec.core.image import io as image_io
from tests.golden import layers
from tests.golden.check import ENCODER, golden
from tests.helpers import DEMO

CORPUS = ENCODER.parents[2] / "tests" / "corpus"
SIZES = ("384x256", "1x1", "257x65", "200x256")


@pytest.mark.parametrize("seed, shape", [(0, (1, 4, 16, 16)), (0x0965CE89, (1, 2, 24, 10)), (2**32 - 1, (1, 3, 5, 7))])
def test_the_noise_is_torchs(folder, seed, shape):
    from priorcodec_lite import noise

    wanted = seeded_noise([seed], shape, "cpu", torch.float32)(0).numpy()
    np.testing.assert_allclose(noise.normal(seed, shape), wanted, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def session():
    return open_session("toy", device="cpu", dtype="float32", tile=256)


@pytest.fixture(scope="module")
def models(session, tmp_path_factory):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"needs {name}: pip install 'priorcodec[export]'")
    from priorcodec.export.manifest import export

    path = tmp_path_factory.mktemp("models")
    export(session, path, tile=256)
    return path


@pytest.fixture(scope="module")
def lite(folder, models):
    import priorcodec_lite

    return priorcodec_lite.open_session(models, threads=1)


@pytest.fixture(scope="module")
def photo():
    return image_io.load(DEMO).pixels[:300, :400]


def levels(one, other):
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("size", [(100, 100), (700, 300), (64, 640)])
def test_tiles_of_a_decoder_of_free_or_fixed_size_give_the_whole(folder, fixed, size):
    """With a decoder that answers the preview."""
    from types import SimpleNamespace

    from priorcodec_lite.codec import Codec

    height, width = container.padded(*size)
    preview = np.random.default_rng(0).uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
    content = SimpleNamespace(height=size[0], width=size[1])
    y_hat = np.zeros((1, 2, height // 16, width // 16), np.float32)
    sides = {
        stride: [256 // stride] * 2 if fixed else [f"{64 // stride}h", f"{64 // stride}w"] for stride in (16, 4, 1)
    }
    inputs = {"y_hat": [1, 2, *sides[16]], "noise": [1, 4, *sides[4]], "preview": [1, 3, *sides[1]]}

    class Fake(Codec):
        def __init__(self):
            self.manifest, self.graphs = {"tile": 256, "margin": 64}, self

        def run(self, name, **given):
            for key, values in given.items():
                for asked, side in zip(inputs.get(key, [1]), values.shape, strict=True):
                    assert side == asked or isinstance(asked, str) and side % int(asked[:-1] or 1) == 0
            return [given["preview"]]

    decoded = SimpleNamespace(y_hat=y_hat, content=content, seed=1, quality=np.ones(1, np.float32))
    found = np.concatenate(list(Fake()._bands(decoded, preview, inputs)), 2)
    np.testing.assert_allclose(found, preview[..., : size[0], : size[1]], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_images_are_torchs_within_a_level(lite, session, record_property):
    """Of one tile and of several."""
    for size in SIZES:
        data = next(data for name, (data, _) in golden().items() if f"-{size}-" in name)
        for perceptual in (False, True):
            wanted = session.preview(data, output="np", perceptual=perceptual)
            assert levels(lite.preview(data, output="np", perceptual=perceptual), wanted) <= 1
        found = levels(lite.decode(data, output="np"), session.decode(data, output="np"))
        record_property(size, found)
        assert found <= 1


@pytest.mark.parametrize("name", ["", ".", "./", "/"])
def test_a_path_without_a_name_is_one_line(models, capsys, name):
    from priorcodec_lite import command

    for word in ("encode", "decode", "preview"):
        assert command.main([word, name, "--models", str(models)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "wanted a file" in err


@pytest.mark.slow
def test_files_without_a_latent_are_rendered_alike(lite, session, record_property):
    files = layers.golden()
    for name in ("alone", "alone-pixel", "alone-column"):
        data = files[name][0]
        previews = [lite.preview(data, output="np", perceptual=perceptual) for perceptual in (False, True)]
        assert levels(*previews) == 0 and levels(previews[0], session.preview(data, output="np")) <= 1
        found = levels(lite.decode(data, output="np"), session.decode(data, output="np"))
        record_property(name, found)
        assert found <= 1


@pytest.mark.slow
def test_a_residual_without_the_latent_that_it_refines_changes_nothing(lite, session):
    data = layers.golden()["alone"][0]
    content = container.unpack(data)
    more = (*content.segments, container.Segment(type=container.RESIDUAL, data=b""))
    odd = container.pack(replace(content, segments=more))
    one, other = lite.codec.decode(odd), session.codec.decode(odd)
    assert one.quality_byte == 16 * other.quality == content.quality


@pytest.mark.slow
def test_a_map_without_textures_is_no_image(models, tmp_path, capsys):
    from priorcodec_lite import command

    path = CORPUS / "structure.gic"
    given = ["-o", str(tmp_path / "out.png"), "--models", str(models), "--threads", "1"]
    for name in ("decode", "preview"):
        assert command.main([name, str(path), *given]) == 2
        err = capsys.readouterr().err
        assert "no texture layer: there is no image" in err and err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_info_names_layers_and_their_sizes(folder, capsys):
    from priorcodec_lite import command

    assert command.main(["info", str(CORPUS / "semantic-latent.gic"), str(CORPUS / "residual.gic")]) == 0
    out = capsys.readouterr().out.split()
    assert " ".join(out).count("layers semantic, latent") == 1 and "latent, residual" in " ".join(out)
    content = container.unpack((CORPUS / "semantic-latent.gic").read_bytes())
    assert all(f"{container.NAMES[s.type]} {len(s.data)} bytes" in " ".join(out) for s in content.segments)


@pytest.mark.slow
def test_graphs_of_another_encoder_or_none_for_the_layers_are_one_line(models, tmp_path):
    import priorcodec_lite
    from priorcodec_lite.core.errors import WeightsError

    data = layers.golden()["alone-pixel"][0]
    shutil.copytree(models, tmp_path / "models")
    path = tmp_path / "models" / "semantic.safetensors"
    path.write_bytes(path.read_bytes().replace(f"{container.unpack(data).encoder_id:08x}".encode(), b"00000001"))
    for message in ("made for encoder 00000001", "no readable semantic tables"):
        with pytest.raises(WeightsError, match=message):
            priorcodec_lite.open_session(tmp_path / "models").decode(data)
        path.unlink(missing_ok=True)
    manifest = json.loads((models / "manifest.json").read_text())
    del manifest["files"]["renderer.onnx"]
    (tmp_path / "models" / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(models / "semantic.safetensors", path)
    with pytest.raises(WeightsError, match="has no renderer: export"):
        priorcodec_lite.open_session(tmp_path / "models").decode(data)


@pytest.mark.slow
def test_files_are_read_alike_by_torch(lite, session, photo):
    """Symbols are chosen in floating point, so a few may differ from torch's; what is written is read alike."""
    reader = ExactReader.load(ENCODER)
    data, wanted = lite.encode(photo, 5.5, statistics=True), session.encode(photo, 5.5, statistics=True)
    assert abs(len(data) - len(wanted)) <= 8
    one, other = (reader.read(file)[1] for file in (data, wanted))
    assert np.mean(one != other) < 0.01
    assert container.unpack(data).segments == container.unpack(wanted).segments
    small = lite.encode(photo, max_bytes=400)
    assert 380 < len(small) <= 400 and reader.read(small)


@pytest.mark.slow
def test_statistics_are_respected(folder, models, photo, session):
    import priorcodec_lite
    from priorcodec_lite.core.errors import StreamError

    written = priorcodec_lite.open_session(models, renorm="written", threads=1)
    data = session.encode(photo, 1, statistics=True)
    whole = open_session("toy", device="cpu", dtype="float32", tile=256, renorm="written")
    assert levels(written.decode(data, output="np"), whole.decode(data, output="np")) <= 1
    with pytest.raises(StreamError, match="no statistics"):
        written.decode(session.encode(photo, 1))


@pytest.mark.slow
def test_the_command_and_pillow(folder, models, photo, tmp_path, capsys, monkeypatch):
    from priorcodec_lite import command, session

    Image.fromarray(photo).save(tmp_path / "photo.png")
    given = ["--models", str(models), "--threads", "1"]
    assert command.main(["encode", str(tmp_path / "photo.png"), "--bpp", "0.05", *given]) == 0
    data = (tmp_path / "photo.gic").read_bytes()
    assert 0.9 * 0.05 <= 8 * len(data) / photo[..., 0].size <= 0.05
    assert command.main(["decode", str(tmp_path / "photo.gic"), *given]) == 2  # photo.png exists
    assert "exists" in capsys.readouterr().err
    out = tmp_path / "out.png"
    assert command.main(["decode", str(tmp_path / "photo.gic"), "-o", str(out), *given]) == 0
    assert (
        command.main(["decode", "missing.gic", str(tmp_path / "photo.gic"), "-o", str(tmp_path / "new"), *given]) == 1
    )
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(tmp_path / "new" / "photo.png")))
    assert command.main(["info", str(tmp_path / "photo.gic")]) == 0 and "400" in capsys.readouterr().out
    (tmp_path / "photo.gic").write_bytes(data[:-1])
    assert command.main(["preview", str(tmp_path / "photo.gic"), "-o", str(tmp_path / "p.png"), *given]) == 2
    assert "damaged" in capsys.readouterr().err and not (tmp_path / "p.png").exists()

    registered = {name: getattr(Image, name).copy() for name in ("OPEN", "SAVE", "EXTENSION", "DECODERS")}
    monkeypatch.setattr(session, "MODELS", models)
    try:
        import priorcodec_lite.pillow

        with Image.open(io.BytesIO(data)) as image:
            assert type(image).__module__ == priorcodec_lite.pillow.__name__ and image.size == (400, 300)
            assert (
                levels(np.asarray(image.convert("RGB")), session.open_session(models).preview(data, output="np")) == 0
            )
        Image.fromarray(photo).save(tmp_path / "saved.gic", quality=2)
        assert container.unpack((tmp_path / "saved.gic").read_bytes()).quality == 32
        with pytest.raises(ValueError, match="needs torch"):
            Image.fromarray(photo).save(tmp_path / "refined.gic", refine=10)
    finally:
        for name, known in registered.items():
            getattr(Image, name).clear()
            getattr(Image, name).update(known)


@pytest.mark.slow
def test_the_command_replaces_no_input_and_says_what_is_wrong(folder, models, photo, tmp_path, capsys, monkeypatch):
    from priorcodec_lite import command

    source, link = tmp_path / "photo.png", tmp_path / "link.gic"
    image_io.save(photo[:64, :64], source)
    link.symlink_to(source)
    before, given = source.read_bytes(), ["--models", str(models), "-f"]
    assert command.main(["encode", str(source), "-o", str(link), *given]) == 2
    assert "the input" in capsys.readouterr().err and source.read_bytes() == before
    for target, says in (("new.txt", "ending in .gic"), ("x" * 300 + ".gic", "name too long")):
        assert command.main(["encode", str(source), "-o", str(tmp_path / target), *given]) == 2
        said = capsys.readouterr().err
        assert says in said.lower() and said.count("\n") == 1
    coded = tmp_path / "new" / "folder" / "a.gic"
    assert command.main(["encode", str(source), "-o", str(coded), *given]) == 0
    assert command.main(["info", str(coded), "--max-pixels", "10"]) == 2
    assert "more than 10 pixels" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["gic", "info", str(coded)])
    for full in ("/dev/full", "broken pipe"):
        out = open(full, "w") if full == "/dev/full" else _closed_pipe()  # noqa: SIM115
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr(os, "dup2", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            command.run()
        monkeypatch.undo()
        monkeypatch.setattr("sys.argv", ["gic", "info", str(coded)])
        assert ended.value.code == (2 if full == "/dev/full" else 141)
        with contextlib.suppress(OSError):
            out.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "standard output" in said


def _closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


@pytest.fixture(scope="module")
def without_graphs(folder, tmp_path_factory):
    """A session that reads files and has no network: whatever is refused is refused before any is needed."""
    import priorcodec_lite

    path = tmp_path_factory.mktemp("tables")
    shutil.copy(ENCODER, path / "tables.safetensors")
    (path / "manifest.json").write_text('{"format": 1, "files": {}}')
    return priorcodec_lite.open_session(path, threads=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quality": "6"}, {"bpp": "1"}, {"quality": True}, {"statistics": "no"}, {"background": 5}, {"refine": 10},
        {"refine": []}, {"layers": ("latent", "residual")}, {"residual": 3}, {"roi": [(0, 0, 16, 16)]},
    ],
)  # fmt: skip
def test_arguments_of_another_kind_or_that_need_torch_are_one_line(without_graphs, photo, wrong):
    from priorcodec_lite.core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"wanted|needs torch: pip install priorcodec"):
        without_graphs.encode(photo, **wrong)


def test_every_argument_of_the_whole_packages_encode_is_known(folder):
    from priorcodec_lite.session import UNSUPPORTED, Session

    known = inspect.signature(Session.encode).parameters.keys() | UNSUPPORTED
    whole = inspect.signature(open_session("toy").encode).parameters
    assert whole.keys() <= known
    assert all(whole[name].default in values for name, values in UNSUPPORTED.items())


def test_arrays_for_what_needs_torch_are_one_line(without_graphs, photo):
    from priorcodec_lite.core.errors import ConfigError

    with pytest.raises(ConfigError, match="roi=.*needs torch"):
        without_graphs.encode(photo, roi=np.zeros((1, 4), int))


def test_a_fork_loads_its_own_graphs(folder, tmp_path, monkeypatch):
    from priorcodec_lite.graphs import Graphs

    (tmp_path / "manifest.json").write_text('{"format": 1, "files": {}}')
    graphs = Graphs(tmp_path)
    monkeypatch.setattr(Graphs, "_load", lambda self, name: os.getpid())
    graphs.preload("preview")
    assert graphs._loading["preview"].result() == os.getpid()
    child = os.fork()
    if child == 0:
        graphs.preload("preview")
        os._exit(0 if graphs._loading["preview"].result(timeout=20) == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_output_of_another_kind_is_refused_before_the_work(without_graphs):
    from priorcodec_lite.core.errors import ConfigError

    for decode in (without_graphs.decode, without_graphs.preview):
        with pytest.raises(ConfigError, match="output='pt'"):
            decode(b"no file", output="pt")


def test_settings_of_another_kind_are_one_line(folder):
    from priorcodec_lite import open_session
    from priorcodec_lite.core.errors import ConfigError

    wrong = (
        {"threads": "2"},
        {"threads": 1.5},
        {"threads": 2**40},
        {"max_pixels": "x"},
        {"max_pixels": 0},
        {"models": 5},
        {"models": ""},
    )
    for settings in wrong:
        with pytest.raises(ConfigError, match="wanted"):
            open_session(**settings)


@pytest.mark.parametrize(
    "given, outputs, says",
    [
        (["a.png"], ["a.gic"], ""),
        (["a.png", "-o", "x.GIC"], ["x.GIC"], ""),
        (["a.png", "-o", "new"], ["new/a.gic"], ""),
        (["a.png", "./a.png", "-o", "new"], ["new/a.gic"], ""),
        (["a.png", "b.png", "-o", "new.v2"], ["new.v2/a.gic", "new.v2/b.gic"], ""),
        (["a.png", "-o", "x.txt"], [], "wanted a name ending in .gic, or a folder"),
        (["a.png", "b.png", "-o", "x.gic"], [], "for 2 files, wanted a folder"),
        (["a.png", "b.png", "-o", "-"], [], "for 2 files, wanted a folder"),
        (["-", "-o", "new"], ["new/stdin.gic"], ""),
    ],
)
def test_outputs_are_named_as_the_whole_packages_command_names_them(
    without_graphs, tmp_path, monkeypatch, capsys, given, outputs, says
):
    from priorcodec_lite import command

    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        image_io.save(np.zeros((8, 8, 3), np.uint8), name)
    monkeypatch.setattr(command, "open_session", lambda *args, **settings: without_graphs)
    monkeypatch.setattr(command, "_encode", lambda session, source, target, given: f"{source} -> {target}")
    status = command.main(["encode", *given])
    said, error = capsys.readouterr()
    assert [line.rpartition(" -> ")[2] for line in said.splitlines()] == outputs
    assert (status, says in error, error.count("\n")) == ((2, True, 1) if says else (0, True, 0))
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    whole = CliRunner().invoke(app, ["encode", *given, "-q", "0"], input=Path("a.png").read_bytes())
    assert (whole.exit_code == 0) == (not says) and all((tmp_path / output).is_file() for output in outputs)


def _gic(folder, *given, data):
    command = [sys.executable, "-m", "priorcodec_lite", *given]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, input=data)


def test_a_file_from_standard_input(folder):
    data = (CORPUS / "semantic-latent.gic").read_bytes()
    assert b"width" in _gic(folder, "info", "-", data=data).stdout
    done = _gic(folder, "info", "-", data=data[:-1])
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_from_standard_input_to_standard_output(folder, models, photo):
    image = io.BytesIO()
    Image.fromarray(photo[:64, :96]).save(image, "PNG")
    coded = _gic(folder, "encode", "-", "--models", str(models), data=image.getvalue())
    assert coded.stdout.startswith(b"GIC") and b"- -> -: " in coded.stderr
    for name in ("decode", "preview"):
        decoded = _gic(folder, name, "-", "--models", str(models), data=coded.stdout)
        assert Image.open(io.BytesIO(decoded.stdout)).size == (96, 64)


def test_a_name_that_no_terminal_shows_ends_nothing(folder, tmp_path):
    strange = tmp_path / os.fsdecode(b"\xff\x1b[31m.gic")
    strange.write_bytes(next(iter(golden().values()))[0])
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [sys.executable, "-m", "priorcodec_lite", "info", str(strange)], env=environment, capture_output=True
    )
    assert done.returncode == 0 and done.stderr == b"" and b"\x1b" not in done.stdout


@pytest.mark.slow
def test_a_session_that_ends_goes_on(folder, models, photo):
    from priorcodec_lite import open_session

    with open_session(models) as session:
        data = session.encode(photo[:64, :64], np.float32(2))
    assert not session.codec.graphs._loading
    assert session.preview(data, output="np").shape == (64, 64, 3)  # loaded again


@pytest.mark.slow
def test_graphs_that_do_not_fit_are_one_line(folder, models, photo, tmp_path):
    from priorcodec_lite import open_session
    from priorcodec_lite.core.errors import WeightsError

    shutil.copytree(models, tmp_path / "swapped")
    shutil.copy(models / "hyper.onnx", tmp_path / "swapped" / "analysis.onnx")
    with pytest.raises(WeightsError, match="analysis.onnx is not the file that manifest.json lists"):
        open_session(tmp_path / "swapped").encode(photo[:64, :64])
    manifest = json.loads((models / "manifest.json").read_text())
    manifest["files"]["analysis.onnx"]["sha256"] = manifest["files"]["hyper.onnx"]["sha256"]
    (tmp_path / "swapped" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match="analysis.onnx does not take"):
        open_session(tmp_path / "swapped").encode(photo[:64, :64])
    del manifest["margin"]
    (tmp_path / "swapped" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match="margin"):
        open_session(tmp_path / "swapped")
