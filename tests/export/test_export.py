"""Exported graphs answer what torch answers, within half a level of 255, and the folder says what is in it."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from priorcodec import open_session
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.cli import app
from priorcodec.config import DecodeConfig
from priorcodec.core import shipped
from priorcodec.core.errors import ConfigError, PriorCodecError, WeightsError
from priorcodec.core.exact_reader import ExactReader
from priorcodec.core.layers.semantic import SHIPPED, SemanticTables
from priorcodec.export import graph, manifest, networks
from priorcodec.registry import open_registry
from tests.golden import layers
from tests.golden.check import ENCODER, golden
from tests.meta.test_repository import machine_paths

HALF_A_LEVEL = 0.5 / 127.5
M, LEVELS, TILE = 6, 8, 256
TINY = AdapterConfig(
    width=8, depth=1, stem_width=8, stem_depth=1, fusion=8, window=4, refiner=8, refiner_depth=1, noise_channels=2,
    tokens=4, mapper=True, lora_rank=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def packages():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"needs {name}: pip install 'priorcodec[export]'")


def answers(data, inputs):
    """What onnxruntime makes of a graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def trace(network):
    return graph.trace(network.module, network.examples(), network.inputs, network.outputs)


def largest_difference(data, network, inputs):
    with torch.inference_mode():
        wanted = network.module(*inputs.values())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    got = answers(data, inputs)
    assert [value.shape for value in got] == [value.shape for value in wanted]
    return max(np.abs(one - other.numpy()).max() for one, other in zip(got, wanted, strict=True))


def tiny(name, tile=None):
    """A tiny backbone's network, every weight of its adapter moved away from its fresh value."""
    spec, generator = open_registry().spec(name), torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        backbone, adapter = spec.build_tiny(), Adapter(spec, TINY, m=M, levels=LEVELS, tiny=True).eval()
        for parameter in adapter.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    adapter.requires_grad_(False).merge(backbone)
    return networks.of_decoder(adapter, M, tile)


@pytest.fixture(scope="module")
def session():
    return open_session("toy", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def exported(packages, session, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "new"
    written = []
    return path, manifest.export(session, path, tile=TILE, progress=written.append), written


@pytest.mark.slow
def test_the_manifest_says_what_is_in_the_folder(exported, session):
    path, found, written = exported
    assert json.loads((path / "manifest.json").read_text()) == found
    assert {file.name for file in path.iterdir()} == {*found["files"], "manifest.json"}
    assert written == list(found["files"])
    for name, row in found["files"].items():
        data = (path / name).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert machine_paths(data.replace(b"\0", b" ")) == [] and b"File " not in data
    assert found["encoder"]["id"] == f"{session.codec.id:08x}" and found["backbone"]["name"] == "toy"
    assert found["files"][found["files"]["decoder.onnx"]["preview"]]["outputs"] == {"x": [1, 3, "16h", "16w"]}
    assert found["files"]["preview.onnx"]["inputs"] == {
        "y_hat": [1, session.codec.transforms.config.m, "h", "w"], "quality": [1],
    }  # fmt: skip


@pytest.mark.slow
def test_the_encoders_graphs_at_a_size_that_was_not_traced(exported, session, record_property):
    path, _, _ = exported
    renderer = networks.of_semantic(session.codec.semantic_networks.renderer)
    for network in (*networks.of_encoder(session.codec.transforms), renderer):
        found = largest_difference((path / f"{network.name}.onnx").read_bytes(), network, network.examples((5, 4)))
        record_property(network.name, float(found))
        assert found < HALF_A_LEVEL, network.name


@pytest.mark.slow
def test_the_preview_of_a_golden_file(exported, session, record_property):
    path, _, _ = exported
    name, (data, _) = next((n, row) for n, row in golden().items() if "384x256" in n)
    decoded = session.codec.decode(data)
    wanted = session.codec.preview_tensor(decoded)
    inputs = {"y_hat": decoded.y_hat, "quality": torch.tensor([decoded.quality])}
    (found,) = answers((path / "preview.onnx").read_bytes(), inputs)
    difference = float(np.abs(found - wanted.numpy()).max())
    record_property(name, difference)
    assert difference < HALF_A_LEVEL


@pytest.mark.slow
def test_the_tables_file_reads_every_file_alike(exported):
    path, found, _ = exported
    whole, alone = ExactReader.load(ENCODER), ExactReader.load(path / manifest.EXACT)
    assert alone.encoder_id == whole.encoder_id == int(found["encoder"]["id"], 16)
    name = next(name for name in golden() if "64x64" in name)
    assert alone.read(golden()[name][0])[2] == golden()[name][1]
    spoilt = (path / manifest.EXACT).read_bytes().replace(b'"encoder_id":"', b'"encoder_id":"x')
    (path.parent / "spoilt").write_bytes(spoilt)
    with pytest.raises(WeightsError):
        ExactReader.load(path.parent / "spoilt")


def transposed(data):
    """The most sides that a transposed tensor of a graph has."""
    import onnx

    return max(len(n.attribute[0].ints) for n in onnx.load_from_string(data).graph.node if n.op_type == "Transpose")


@pytest.mark.parametrize("name", ["toy", pytest.param(DecodeConfig().backbone, marks=pytest.mark.slow)])
def test_a_decoder_at_any_size(packages, name, record_property):
    network = tiny(name)
    data = trace(network)
    assert transposed(data) <= 6  # XNNPACK knows no tensors with more sides
    for cells in ((1, 1), (1, 3), (2, 2), (3, 5)):
        found = largest_difference(data, network, network.examples(cells))
        record_property(str(cells), float(found))
        assert found < HALF_A_LEVEL, cells


def test_a_decoder_at_the_size_of_its_tile(packages):
    network = tiny("toy", TILE)
    assert network.inputs[0].shape == (1, M, TILE // 16, TILE // 16)
    assert largest_difference(trace(network), network, network.examples()) < HALF_A_LEVEL


@pytest.mark.slow
def test_weights_in_half_precision(packages):
    network = tiny("toy")
    whole, half = trace(network), manifest.checked(network, half=True)
    assert len(half) < 0.75 * len(whole)
    assert 0 < largest_difference(half, network, network.examples()) < HALF_A_LEVEL


def test_tables_of_the_semantic_layers_alone(session, tmp_path):
    data = manifest.semantic_tables()
    (tmp_path / "tables").write_bytes(data)
    tables, reader = SemanticTables(tmp_path / "tables"), session.codec.reader
    assert len(data) < 0.1 * SHIPPED.stat().st_size
    for file, digests in layers.golden().values():
        if len(file) < 400:
            assert layers.digests(file, reader, tables) == digests


def test_an_encoder_without_semantic_layers(caplog):
    class Other:
        @property
        def semantic_tables(self):
            raise WeightsError("they were made for another encoder")

    assert not manifest.has_semantic_layers(Other()) and "another encoder" in caplog.text


class HalfSize(torch.nn.Module):
    """A network whose traced size is fixed without a word."""

    def forward(self, y_hat, quality, preview, noise=None):
        return preview * float(preview.shape[-1]) / 1000


def test_a_network_that_cannot_have_free_sizes(packages, monkeypatch, caplog):
    broken = tiny("toy")
    fixed = tiny("toy", TILE)
    monkeypatch.setattr(
        networks, "of_decoder", lambda adapter, m, tile=None: fixed if tile else replace(broken, module=HalfSize())
    )
    network, data = manifest._decoder(None, M, TILE, fixed=False, half=False)
    assert network is fixed and data and "no free sizes" in caplog.text
    with pytest.raises(PriorCodecError, match="decoder: "):
        manifest.checked(replace(broken, module=HalfSize()))


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (9, 7), (12, 20)])
def test_adaptive_pooling(size):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(graph.adaptive_pool(x, (8, 8)), F.adaptive_avg_pool2d(x, (8, 8)))


@pytest.mark.slow
def test_a_graph_has_the_same_bytes_again(packages):
    one, two = (trace(tiny("toy")) for _ in range(2))
    assert one == two


@pytest.mark.slow
def test_no_tensor_of_a_convolutional_graph_has_more_than_four_sides(exported):
    import onnx
    from onnx import numpy_helper

    for name in ("analysis", "preview"):
        model = onnx.load(exported[0] / f"{name}.onnx")
        kinds = {node.op_type for node in model.graph.node}
        shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
        fixed = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name in shapes]
        assert all(len(shape) <= 4 for shape in fixed) and "Conv" in kinds
        assert all(len(node.attribute[0].ints) <= 4 for node in model.graph.node if node.op_type == "Transpose")


@pytest.mark.parametrize("r", [1, 2, 8])
def test_unshuffling(r):
    x = torch.randn(2, 3, 16, 32)
    assert torch.equal(graph.unshuffle(x, r), F.pixel_unshuffle(x, r))


@pytest.mark.parametrize("tile", [0, 100, 128, 8192])
def test_an_impossible_tile_is_one_line(session, tmp_path, tile):
    with pytest.raises(ConfigError, match="multiple of 64 from 256"):
        manifest.export(session, tmp_path / "new", tile=tile)
    assert not (tmp_path / "new").exists()


def test_another_type_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="wanted cpu and float32"):
        manifest.export(open_session("toy", device="cpu", dtype="bfloat16"), tmp_path / "new")


def test_missing_packages_are_one_line(monkeypatch, session, tmp_path):
    def missing(*args, **kwargs):
        raise ImportError("no", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", missing)
    with pytest.raises(ConfigError, match=r"export needs onnxscript.*priorcodec\[export\]"):
        manifest.export(session, tmp_path / "new", tile=TILE, decoder=False)
    assert not (tmp_path / "new").exists()


def test_the_command_replaces_no_file_of_any_name(tmp_path):
    (tmp_path / "preview.onnx").write_bytes(b"mine")
    words = ["export", str(tmp_path), "--no-decoder"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError) and "preview.onnx exists already" in str(done.exception)
    done = CliRunner().invoke(app, [*words, "--force", "--backbone", "toy"])
    assert isinstance(done.exception, ConfigError) and "options of the decoder" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["preview.onnx"]


def test_what_an_export_did_not_finish_has_no_manifest(monkeypatch, session, tmp_path):
    monkeypatch.setattr(manifest, "checked", lambda network, **_: b"graph")
    manifest.export(session, tmp_path, tile=TILE, decoder=False)
    whole = {path.name for path in tmp_path.iterdir()}
    assert whole >= {"manifest.json", "tables.safetensors", "analysis.onnx"}

    def full(path, data, *, replace):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest.atomic, "write", full)
    with pytest.raises(OSError, match="No space"):
        manifest.export(session, tmp_path, tile=TILE, decoder=False)
    assert {path.name for path in tmp_path.iterdir()} == whole - {"manifest.json"}


def test_the_command_names_its_files(packages, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "checked", lambda network, **_: b"graph")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "new"), "--backbone", "toy", "--tile", "256"])
    assert done.exit_code == 0, done.output
    assert {line.rpartition("/")[2] for line in done.output.split()} >= {"decoder.onnx", "tables.safetensors"}
    assert ENCODER.resolve() == shipped.ENCODER.resolve()
