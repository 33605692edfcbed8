"""Untrusted weights: no pickle is ever loaded, and what does not fit is refused in one line before it takes memory."""

import json
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from priorcodec import AdapterError, PriorCodecError, WeightsError, open_session
from priorcodec.adapters import file as adapter_file
from priorcodec.adapters.adapter import Adapter
from priorcodec.core.codec import Codec
from priorcodec.core.exact_reader import ExactReader
from priorcodec.core.io import safetensors
from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from priorcodec.core.weights import load_encoder, save_encoder
from priorcodec.registry import open_registry
from tests.adapters.conftest import TINY
from tests.backbones.test_loading import write_folder

SPECS = open_registry().specs()
TINY_ENCODER = EncoderConfig(n8=8, n16=8, m=8, groups=(2, 6), m_h=4, n=8, depth8=1, depth16=1, levels=2)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def one_line(action, error=PriorCodecError, match=None):
    with pytest.raises(error, match=match) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and text.isprintable() and len(text) < 700, text


@pytest.fixture(params=["bare", "torch"])
def plant(request, tmp_path):
    """plant(path): a pickle there, in either form; after the test nothing has read it."""
    marker = tmp_path / "the bomb went off"

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "bare":
            path.write_bytes(pickle.dumps({"model": Bomb(marker)}))
        else:
            torch.save({"model": Bomb(marker)}, path)
        return path

    yield write
    assert not marker.exists()


def test_the_bomb_bites(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "x")))
    assert (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["encoder.safetensors", "encoder.pt"])
def test_a_pickle_for_an_encoder(plant, tmp_path, name):
    path = plant(tmp_path / name)
    one_line(lambda: Codec(path), WeightsError, "a pickle, which can run any code")
    one_line(lambda: open_session(encoder=path).preview(b"GIC"), WeightsError)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin", "a.pkl"])
def test_a_pickle_for_an_adapter(plant, tmp_path, name):
    path = plant(tmp_path / name)
    one_line(lambda: open_session("toy", adapter=str(path)).adapter, AdapterError, "a pickle, which can run any code")
    one_line(lambda: adapter_file.read(path), AdapterError, "a pickle, which can run any code")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.ckpt"])
def test_a_pickle_for_our_own_backbone(plant, tmp_path, name):
    path = plant(tmp_path / name)

    def build():
        spec = SPECS["nano_pixel"]
        spec.build(open_registry().weights(spec, str(path)), dtype=torch.float32)

    one_line(build, WeightsError, "nano_pixel: ")


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
def test_a_pickle_in_a_backbones_folder(plant, tmp_path, part, name):
    write_folder("sd15", tmp_path / "sd15")
    (tmp_path / "sd15" / part / "diffusion_pytorch_model.safetensors").unlink()
    plant(tmp_path / "sd15" / part / name)
    spec = SPECS["sd15"]
    one_line(
        lambda: spec.build(open_registry().weights(spec, str(tmp_path / "sd15")), dtype=torch.float32), WeightsError
    )


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors.index.json"])
def test_a_pickle_for_a_config(plant, tmp_path, name):
    write_folder("sd15", tmp_path / "sd15")
    (tmp_path / "sd15" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    plant(tmp_path / "sd15" / "unet" / name)
    one_line(lambda: SPECS["sd15"].build(tmp_path / "sd15", dtype=torch.float32), WeightsError)


def test_a_pickle_for_a_training_checkpoint(plant, tmp_path):
    """Ours are written by torch.save: they are read as plain tensors only."""
    from priorcodec.training.encoder import start_from

    plant(tmp_path / "run" / "checkpoint.pt")
    with pytest.raises((PriorCodecError, pickle.UnpicklingError)):
        start_from(ImageEncoder(TINY_ENCODER), tmp_path / "run")


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "sd15"
    write_folder("sd15", folder)
    return folder


@pytest.mark.parametrize(
    "part, text",
    [
        ("unet/config.json", "{"),
        ("unet/config.json", "[" * 100_000),
        ("unet/config.json", json.dumps({"block_out_channels": "wide"})),
        ("unet/config.json", json.dumps({"block_out_channels": [10**9] * 4})),
        ("vae/config.json", json.dumps({"latent_channels": -1})),
        ("scheduler/scheduler_config.json", json.dumps({"num_train_timesteps": "many"})),
        ("unet/diffusion_pytorch_model.safetensors", "\x08\0\0\0\0\0\0\0notjson!"),
        ("unet/diffusion_pytorch_model.safetensors", ""),
    ],
)
def test_a_folder_that_does_not_fit(sd15, tmp_path, part, text):
    shutil.copytree(sd15, tmp_path / "sd15")
    path = tmp_path / "sd15" / part
    given = json.loads(path.read_text()) if path.suffix == ".json" and text.startswith('{"') else None
    path.write_text(text if given is None else json.dumps({**given, **json.loads(text)}))
    one_line(lambda: SPECS["sd15"].build(tmp_path / "sd15", dtype=torch.float32), WeightsError, "sd15: ")


def test_a_config_cannot_name_the_code_that_reads_it(sd15, tmp_path):
    shutil.copytree(sd15, tmp_path / "sd15")
    path, marker = tmp_path / "sd15" / "unet" / "config.json", tmp_path / "the code ran"
    path.with_name("evil.py").write_text(f"open({str(marker)!r}, 'w')")
    more = {"_class_name": "evil.Model", "auto_map": {"AutoModel": "evil.Model"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    built = SPECS["sd15"].build(tmp_path / "sd15", dtype=torch.float32)
    assert type(built.module).__name__ == "UNet2DConditionModel" and not marker.exists()


@pytest.fixture
def stored(tmp_path):
    spec = SPECS["toy"]
    adapter = Adapter(spec, TINY, m=8, levels=8)
    adapter.inject(spec.build_tiny())
    adapter_file.save(adapter, tmp_path / "a.safetensors", encoder_id=1, metadata={}, dtype=torch.float32)
    return tmp_path / "a.safetensors"


def again(path, config=None, tensors=None, **metadata):
    """The file with another config, tensors (None removes one) and metadata; with kind, as anybody could write it."""
    header, _ = safetensors.describe(path, AdapterError)
    values = {k: v for k, v in {**load_file(path), **(tensors or {})}.items() if v is not None}
    header = {**header, **metadata}
    header["config"] = json.dumps({**json.loads(header["config"]), **(config or {})})
    save_file(values, path, metadata=header)
    return path


def shapes(path):
    Adapter.open(path, SPECS["toy"], encoder_id=1, m=8, levels=8)


@pytest.mark.parametrize(
    "config, match",
    [
        ({"width": 4096, "depth": 64}, "wanted .*4096"),
        ({"stem_width": 4096, "stem_depth": 64}, "does not fit"),
        ({"tokens": 1024}, "does not fit"),
        ({"fusion": 4096}, "does not fit"),
        ({"lora_rank": 1024}, "wanted rank 1024"),
        ({"lora_rank": 0}, "has 4 LoRA tensors, wanted 0"),
    ],
)
def test_a_small_adapter_file_cannot_describe_a_huge_adapter(stored, config, match):
    shapes(stored)
    again(stored, config)
    one_line(lambda: shapes(stored), AdapterError, match)


def test_an_adapter_without_its_tensors(stored):
    again(stored, tensors={name: None for name in load_file(stored) if name.startswith("lora.")})
    one_line(lambda: shapes(stored), AdapterError, "has 0 LoRA tensors, wanted 4")


@pytest.mark.parametrize("text", ["line\nline", "\x1b[2J\x1b[31mred", "x" * 10**6, "\u202eevil"])
def test_metadata_cannot_paint_the_terminal(stored, text):
    spec = SPECS["toy"]
    again(stored, backbone=text)
    one_line(
        lambda: adapter_file.check(adapter_file.read(stored), spec, encoder_id=1),
        AdapterError,
        "is for backbone ",
    )
    again(stored, config={text: 1})
    one_line(lambda: adapter_file.read(stored), AdapterError, "settings this version does not know")
    again(stored, kind=text)
    one_line(lambda: adapter_file.read(stored), AdapterError, "wanted 'priorcodec adapter 2'")


def test_a_config_nested_beyond_reason(stored):
    header, _ = safetensors.describe(stored, AdapterError)
    save_file(load_file(stored), stored, metadata={**header, "config": "[" * 100_000})
    one_line(lambda: adapter_file.read(stored), AdapterError, "damaged description")


def test_a_header_beyond_reason(stored):
    again(stored, note="x" * 2**24)
    one_line(lambda: adapter_file.read(stored), AdapterError, "a header of .* bytes, wanted at most 16777216")
    one_line(lambda: safetensors.describe(stored, AdapterError), AdapterError, "a header of")


@pytest.mark.parametrize(
    "given",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "owner/../../etc/passwd@" + "0" * 40,
        "owner/repo/../../x.safetensors@" + "0" * 40,
        "owner/repo/.git/x.safetensors@" + "0" * 40,
        "/dev/zero.safetensors",
        "a\0b.safetensors",
    ],
)
def test_path_tricks_in_the_name_of_an_adapter(given):
    with pytest.raises(PriorCodecError) as caught:
        open_session("toy", adapter=given).adapter  # noqa: B018
    assert "\n" not in str(caught.value)


def test_a_folder_or_a_device_is_no_weight_file(tmp_path):
    for path in (tmp_path, Path("/dev/zero")):
        one_line(lambda path=path: Codec(path), WeightsError, "is not a readable encoder")
        one_line(lambda path=path: adapter_file.read(path), AdapterError, "is not a readable adapter")


@pytest.fixture
def encoder_file(tmp_path):
    torch.manual_seed(0)
    save_encoder(ImageEncoder(TINY_ENCODER), tmp_path / "e.safetensors", {})
    return tmp_path / "e.safetensors"


def changed(name, value):
    return lambda t: {name: value(t[name])}


def bump(index, value):
    def change(tensor):
        tensor = tensor.clone()
        tensor[index] = value
        return tensor

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("entropy.y_cdf", bump((0, 0), 1)),
        changed("entropy.z_cdf", bump((0, 2), 70_000)),
        changed("entropy.y_cdf", lambda t: t[:, :2]),
        changed("entropy.y_cdf", lambda t: t[:-1]),
        changed("entropy.z_cdf", lambda t: t.flatten()),
        changed("entropy.y_cdf_length", bump(3, 10**6)),
        changed("entropy.z_cdf_length", bump(3, 0)),
        changed("entropy.y_cdf_length", lambda t: t.float()),
        changed("entropy.z_cdf_offset", bump(0, 2**31 - 1)),
        changed("entropy.z_index", bump((0, 0), 200)),
        changed("entropy.z_mean", lambda t: t[:5]),
        changed("entropy.other.1.context.weight", bump((0, 0, 0, 0), -(2**15))),
        changed("entropy.anchor.1.context.weight", lambda t: t[:, :1]),
        changed("entropy.anchor.0.last.weight", lambda t: t[:2]),
        changed("entropy.h_s.1.weight", lambda t: t[..., :1]),
        changed("g_a.0.weight", lambda t: t * float("nan")),
        changed("log_gain", lambda t: t[:1]),
        lambda t: {"entropy.quality_bias": None},
        lambda t: {"log_gain": None},
    ],
)
def test_an_encoder_whose_tensors_do_not_fit(encoder_file, change):
    load_encoder(encoder_file)
    tensors = load_file(encoder_file)
    first = next(name for name in tensors if name.startswith("g_a.") and name.endswith("weight"))
    tensors["g_a.0.weight"] = tensors[first] if "g_a.0.weight" not in tensors else tensors["g_a.0.weight"]
    new = {first if k == "g_a.0.weight" else k: v for k, v in change(tensors).items()}
    new = {k: v.contiguous() if v is not None else None for k, v in new.items()}
    again(encoder_file, tensors=new)
    one_line(lambda: load_encoder(encoder_file), WeightsError, "is a damaged encoder")


@pytest.mark.parametrize(
    "config",
    [
        {"m": 10**9},
        {"m": 4096, "n": 4096},
        {"depth8": 10**6},
        {"depth16": -1},
        {"groups": [2, 5]},
        {"groups": [8]},
        {"groups": [0, 8]},
        {"groups": [1] * 8},
        {"groups": []},
        {"groups": [-1, 9]},
        {"groups": 8},
        {"groups": "8"},
        {"groups": [2.0, 6]},
        {"certain": -1},
        {"certain": 65},
        {"certain": "5"},
        {"levels": 13},
        {"levels": 1},
        {"m": "8"},
        {"m": True},
        {"new": 1},
        {"n8": 0},
        {"depth16": 2},
    ],
)
def test_an_encoder_whose_config_does_not_fit(encoder_file, config):
    assert asdict(TINY_ENCODER)["m"] == 8
    again(encoder_file, config)
    one_line(lambda: load_encoder(encoder_file), WeightsError, "is a damaged encoder")


def test_an_encoder_with_too_many_tensors_is_refused(encoder_file):
    again(encoder_file, tensors={"more.weight": torch.zeros(1)})
    one_line(lambda: load_encoder(encoder_file), WeightsError, "does not fit its own config")


@pytest.mark.parametrize(
    "config", [{"groups": [1] * 100_000}, {"groups": []}, {"groups": "x"}, {"certain": 65}, {"n": None}]
)
def test_the_reader_without_torch_refuses_what_does_not_fit(encoder_file, config):
    ExactReader.load(encoder_file)
    again(encoder_file, config)
    one_line(lambda: ExactReader.load(encoder_file), WeightsError, "has no readable encoder tables")
