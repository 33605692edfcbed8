"""The public API: its signatures, the forms that files and images come in, and what it leaves alone in the process."""

import copy
import importlib
import inspect
import io
import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
import typing
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import priorcodec
from priorcodec import (
    ConfigError,
    EncodedImage,
    ImageError,
    Session,
    StreamError,
    list_backbones,
    open_registry,
    open_session,
)
from priorcodec.batch.fingerprint import fingerprints
from priorcodec.config import DecodeConfig, Renorm
from priorcodec.core import shipped
from priorcodec.core.image import io as image_io
from priorcodec.core.layers.settings import LayerConfig
from priorcodec.session import _LOADING
from tests.helpers import DEMO

SEMANTIC = LayerConfig(layers=("semantic",))
HEAVY = {"diffusers", "peft", "transformers", "accelerate", "compressai", "scipy", "torch._dynamo", "torchvision"}


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image_io.load(DEMO).pixels[:64, :96]


@pytest.fixture(scope="module")
def session():
    return open_session("toy")


@pytest.fixture(scope="module")
def data(session, photo) -> EncodedImage:
    return session.encode(photo, quality=2)


def test_the_signatures_are_the_documented_ones():
    made = inspect.signature(open_session).parameters
    assert list(made)[:15] == [
        "backbone", "weights", "adapter", "device", "dtype", "steps", "renorm", "blend", "low_memory", "max_pixels", "tile",
        "layers", "encoder", "registry", "config",
    ]  # fmt: skip
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for name, p in made.items() if name != "backbone")
    encode = inspect.signature(Session.encode).parameters
    assert {"quality", "bpp", "max_bytes", "background", "statistics", "refine", "refine_metric", "progress"} < set(
        encode
    )
    for function in (Session.decode, Session.preview):
        assert len(typing.get_overloads(function)) == 6


@pytest.mark.slow
def test_pyright_sees_the_types(tmp_path):
    (tmp_path / "use.py").write_text(
        "from priorcodec import open_session, list_backbones\n"
        "s = open_session('sdxl', steps=4)\n"
        "reveal_type(s)\nreveal_type(s.encode('a.png', bpp=0.1))\nreveal_type(s.decode(b''))\n"
        "reveal_type(s.decode(['a.gic'], output='np'))\nreveal_type(list_backbones())\nopen_session(stps=1)\n"
    )
    root = Path(priorcodec.__file__).parents[1]
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(root)]}))
    said = subprocess.run(
        [shutil.which("pyright") or "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    lines = [d["message"] for d in json.loads(said.stdout)["generalDiagnostics"]]
    for wanted in ('"Session"', '"EncodedImage"', '"Image"', '"list[ndarray', '"list[str]"', '"stps"'):
        assert any(wanted in line for line in lines), (wanted, lines)


def test_an_encoded_image_is_bytes_that_know_themselves(data, photo):
    assert isinstance(data, bytes) and (data.width, data.height, data.quality) == (96, 64, 2.0)
    assert data.bpp == 8 * len(data) / (64 * 96) and data.details.data == bytes(data)
    again = pickle.loads(pickle.dumps(data))
    assert again == data and again.quality == data.quality


def test_at_most_one_of_quality_bpp_and_max_bytes(session, photo):
    assert session.encode(photo).quality == 6
    limit = session.encode(photo, max_bytes=150)
    assert len(limit) <= 150 and session.encode(photo, bpp=8 * 150 / photo[..., 0].size) == limit
    for wrong in ({"quality": 2, "bpp": 0.1}, {"quality": 2, "max_bytes": 100}, {"bpp": 0.1, "max_bytes": 100}):
        with pytest.raises(ConfigError, match="at most one") as caught:
            session.encode(photo, **wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="psnr"):
        session.encode(photo, refine_metric="toy")


@pytest.mark.parametrize(
    "wrong", [{"backbone": 5}, {"steps": "4"}, {"adapter": 3.0}, {"weights": 1}, {"renorm": 3}, {"blend": "x"}]
)
def test_a_setting_of_the_wrong_type_is_one_line(wrong):
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}=.*wanted"):
        open_session(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"quality": "six"}, {"bpp": [1]}, {"max_bytes": "2k"}, {"quality": True}, {"refine": "x"}]
)
def test_a_target_of_the_wrong_type_is_one_line(session, photo, wrong):
    (name,) = wrong
    wanted = "a whole number" if name in ("max_bytes", "refine") else "a number"
    with pytest.raises(ConfigError, match=f"^{name}=.*wanted {wanted}"):
        session.encode(photo, **wrong)


def test_convolutions_decode_channels_last():
    adapter = open_session("nano_pixel").adapter
    weights = [p for module in (adapter, adapter.attached.module) for p in module.parameters() if p.ndim == 4]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_files_come_as_bytes_path_file_or_list_and_images_in_three_forms(session, data, tmp_path):
    (tmp_path / "a.gic").write_bytes(data)
    for decode in (session.decode, session.preview):
        wanted = decode(data, output="np")
        assert wanted.dtype == np.uint8 and wanted.shape == (64, 96, 3)
        with (tmp_path / "a.gic").open("rb") as file:
            forms = [
                bytearray(data),
                memoryview(data),
                tmp_path / "a.gic",
                str(tmp_path / "a.gic"),
                io.BytesIO(data),
                file,
            ]
            assert all(np.array_equal(image, wanted) for image in decode(forms, output="np"))
        assert np.array_equal(np.asarray(decode(data)), wanted)
        tensor = decode(data, output="pt")
        assert tensor.dtype == torch.float32 and torch.equal(
            ((tensor + 1) * 127.5).round().byte().permute(1, 2, 0), torch.from_numpy(wanted)
        )
        assert decode([]) == [] and [image.size for image in decode([data, data])] == [(96, 64)] * 2


@pytest.mark.parametrize(
    ("given", "text"),
    [("nowhere.gic", "nowhere.gic cannot be read"), (12, "got int"), (io.StringIO("x"), "a file of str")],
)
def test_what_is_no_file_is_one_line(session, given, text):
    with pytest.raises(StreamError, match=text) as caught:
        session.preview(given)
    assert "\n" not in str(caught.value)


def test_other_outputs_are_refused(session, data):
    with pytest.raises(ConfigError, match="output='jpeg': wanted pil, np, pt"):
        session.decode(data, output="jpeg")


def test_settings_are_checked_at_once(tmp_path):
    for wrong, text in (
        ({"steps": 9}, "1 to 8"), ({"blend": 2}, "0 .* to 1"), ({"renorm": "off"}, "none, predicted, written"),
        ({"dtype": "float12"}, "float16"), ({"device": "gpu"}, "cuda"), ({"tile": 100}, "multiple of 64"),
        ({"steps": "4"}, "a whole number"), ({"steps": 1.5}, "a whole number"), ({"layers": 5}, "names of layers"),
        ({"config": 5}, "YAML"), ({"low_memory": "yes"}, "True or False"), ({"blend": "1"}, "a number"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=text):
            open_session(**wrong)
    with pytest.raises(ConfigError, match="2 invalid settings"):
        open_session(steps=9, blend=2)
    assert open_session(dtype=torch.bfloat16).config.dtype == "bfloat16"
    numbers = open_session(steps=np.int64(2), blend=np.float32(0.5), max_pixels=1e6, tile=np.int32(128)).config
    assert (numbers.steps, numbers.blend, numbers.max_pixels, numbers.tile) == (2, 0.5, 1_000_000, 128)
    assert [type(value) for value in (numbers.steps, numbers.blend, numbers.max_pixels)] == [int, float, int]


@pytest.mark.parametrize(
    "wrong",
    [
        {"refine": 1.5}, {"residual": "3"}, {"residual": True}, {"layers": None}, {"layers": 5}, {"layers": ()},
        {"roi": (0, 0, 8, 8)}, {"roi": None}, {"roi": [(0, 0, 8.5, 8)]}, {"statistics": "no"}, {"quality": True},
        {"bpp": "1"},
    ],
)  # fmt: skip
def test_arguments_of_another_kind_are_one_line(session, photo, wrong):
    with pytest.raises(ConfigError) as caught:
        session.encode(photo, **wrong)
    assert "wanted" in str(caught.value) and "\n" not in str(caught.value)


def test_regions_of_interest_may_be_an_array(session, photo):
    area = [(0, 0, 16, 16)]
    assert session.encode(photo, 2, roi=np.array(area)) == session.encode(photo, 2, roi=area)


def test_a_session_that_was_first_used_in_inference_mode_can_refine(photo):
    with open_session() as session:
        with torch.inference_mode():
            first = session.encode(photo, 2, refine=1)
        assert session.encode(photo, 2, refine=1) == first


def test_another_default_dtype_changes_no_file_and_no_image(session, photo):
    wanted, before = session.encode(photo, 3, refine=1), torch.get_default_dtype()
    image, alone = session.decode(wanted, output="np"), session.codec.encode(photo, layers=SEMANTIC).data
    rendered = session.preview(alone, output="np")
    torch.set_default_dtype(torch.float64)
    try:
        with open_session("toy") as other:
            assert other.encode(photo, 3, refine=1) == wanted
            assert np.abs(other.decode(wanted, output="np") - image.astype(int)).max() <= 1  # the same noise
            assert np.abs(other.preview(alone, output="np") - rendered.astype(int)).max() <= 1
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("outside", [lambda: torch.autocast("cpu", torch.bfloat16), lambda: torch.device("meta")])
def test_the_callers_precision_and_device_change_no_file_and_no_image(session, photo, outside):
    wanted = session.encode(photo, 3)
    image, shown = session.decode(wanted, output="np"), session.preview(wanted, output="np")
    for used in (session, open_session("toy")):  # loaded before, and inside
        with outside():
            assert used.encode(photo, 3) == wanted
            assert (used.decode(wanted, output="np") == image).all()
            assert (used.preview(wanted, output="np") == shown).all()
            used.encode(photo, layers=("semantic", "latent"))


def test_what_is_encoded_can_be_decoded_at_the_same_limit(session, photo):
    height, width = photo.shape[:2]
    with pytest.raises(ImageError, match="with its padding"):
        open_session(max_pixels=height * width).encode(photo)
    padded = -(-height // 64) * 64 * (-(-width // 64) * 64)
    with open_session(max_pixels=padded) as limited:
        limited.preview(limited.encode(photo))


def test_a_config_is_other_defaults(tmp_path):
    (tmp_path / "mine.yaml").write_text("backbone: toy\nsteps: 4\nrenorm: written\n")
    mine = open_session(config=tmp_path / "mine.yaml", steps=2).config
    assert (mine.backbone, mine.steps, mine.renorm) == ("toy", 2, Renorm.written)
    assert open_session(blend=0.5, config=DecodeConfig(backbone="toy")).config == DecodeConfig(
        backbone="toy", blend=0.5
    )
    mine = open_session("nano_pixel", config=tmp_path / "mine.yaml", steps=1, renorm="none").config
    assert (mine.backbone, mine.steps, mine.renorm) == (
        "nano_pixel",
        1,
        Renorm.none,
    )  # a default that is given wins too


def test_paths_are_those_of_the_folder_a_session_was_opened_in(tmp_path, monkeypatch, data):
    for name in ("toy.adapter.safetensors", "encoder.safetensors"):
        shutil.copy(shipped.FOLDER / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    session = open_session("toy", adapter="toy.adapter.safetensors", encoder="encoder.safetensors")
    monkeypatch.chdir("/")
    assert np.array_equal(session.decode(data, output="np"), open_session("toy").decode(data, output="np"))


def test_a_session_is_not_pickled_or_copied(session):
    for copy_of in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="open one in each process"):
            copy_of(session)


def test_a_file_of_a_list_is_named(session, data, tmp_path):
    (tmp_path / "cut.gic").write_bytes(data[:-3])
    with pytest.raises(StreamError, match="cut.gic: the file is damaged"):
        session.decode([data, tmp_path / "cut.gic"])


def test_a_backbone_of_a_largest_size_gets_tiles_of_it(data):
    """Its denoiser is never called with more, margins included; an image that fits is one tile."""
    registry = open_registry()
    spec = replace(registry.spec("nano_pixel"), max_size=192)
    sides = []

    def build(weights, *, dtype):
        built = spec.build(weights, dtype=dtype)
        predict = built.predict
        built.predict = lambda x_t, *rest: (sides.append(max(x_t.shape[-2:])), predict(x_t, *rest))[1]
        return built

    registry._specs["nano_pixel"] = replace(spec, build=build)
    stride = spec.latent.stride
    with open_session("nano_pixel", registry=registry) as session:
        assert session.tile == 64
        session.decode(session.encode(np.zeros((320, 256, 3), np.uint8), quality=0))
        assert len(sides) == 5 * 4 and max(sides) * stride <= 192
        sides.clear()
        session.decode(session.encode(np.zeros((192, 150, 3), np.uint8), quality=0))
        assert sides == [192 // stride]
    with open_session(
        "nano_pixel", registry=registry, tile=128
    ) as session:  # asked for: smaller than the denoiser needs
        assert len(session.plan(192, 192)) == 9 and len(session.plan(64, 64)) == 1


def test_sessions_load_one_after_the_other():
    """While diffusers loads a model, functions of torch are replaced for all threads."""
    registry, inside, most = open_registry(), [], []
    spec = registry.spec("nano_pixel")

    def build(weights, *, dtype):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.2)
        inside.pop()
        return spec.build(weights, dtype=dtype)

    registry._specs["nano_pixel"] = replace(spec, build=build)
    sessions = [open_session("nano_pixel", registry=registry) for _ in range(3)]
    threads = [threading.Thread(target=lambda s=s: s.adapter) for s in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_backbones_are_listed_by_pattern():
    assert list_backbones("sd*") == ["sd15", "sd21", "sd21.base", "sdxl"]
    assert "nano_pixel" in list_backbones() and list_backbones("nothing*") == []


def test_a_session_closes_and_moves(data):
    with open_session("nano_pixel") as session:
        wanted = session.decode(data, output="np")
        codec = session.codec
        assert session.to("cpu") is session and session.config.device == "cpu" and session.codec is not codec
        assert np.array_equal(session.decode(data, output="np"), wanted)
    assert session._adapter is None and session._codec is None
    with pytest.raises(ConfigError, match="cannot be used here"):
        session.to("cuda:17")
    assert session.config.device == "cpu"


def test_blend_0_needs_no_backbone(session, data):
    without = open_session("no_such_backbone", blend=0)
    assert np.array_equal(without.decode(data, output="np"), session.preview(data, output="np"))


def test_only_what_is_used_is_imported():
    """Encoding and previews: no diffusion code. Decoding by our own backbones: no diffusers, no peft; OmegaConf only to merge."""
    code = (
        "import sys, numpy as np, priorcodec as p\n"
        f"def loaded(): print([m for m in {sorted(HEAVY)} if m in sys.modules])\n"
        "s = p.open_session(); d = s.encode(np.zeros((8, 8, 3), np.uint8), quality=1); s.preview(d); loaded()\n"
        "s.decode(d); loaded(); print('omegaconf' in sys.modules); p.open_session('nano_dit').decode(d); loaded()"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n") == ["[]", "[]", "False", "[]", ""]


def test_the_registry_is_opened_once(data, monkeypatch):
    from priorcodec import registry

    opened, really = [], registry.open_registry
    monkeypatch.setattr(registry, "open_registry", lambda *args, **kwargs: opened.append(1) or really(*args, **kwargs))
    session = open_session("nano_pixel")
    session.decode([data, data])
    fingerprints(session, preview=False)(data)
    assert opened == [1]


def test_the_process_is_left_as_it_was(data, photo):
    # Torch does so with its first optimizer; sympy in it adds a warning filter.
    importlib.import_module("torch._dynamo")
    torch.manual_seed(5)
    states = (
        torch.get_rng_state,
        lambda: sys.stdout,
        lambda: list(warnings.filters),
        torch.get_num_threads,
        torch.is_grad_enabled,
    )
    before = [state() for state in states]
    with open_session("nano_pixel") as session:
        session.decode(session.encode(photo, quality=1, refine=2))
    after = [state() for state in states]
    assert torch.equal(before[0], after[0]) and before[1] is after[1] and before[2:] == after[2:]


@pytest.mark.parametrize("backbone", ["nano_pixel", "nano_dit"])
def test_eight_threads_decode_what_one_does(photo, backbone):
    session = open_session(backbone, steps=2)
    files = [session.encode(photo[: 40 + 8 * i], quality=i) for i in range(4)]
    wanted = session.decode(files, output="np")
    same: list[bool] = []
    start = threading.Barrier(8, timeout=60)

    def work(i: int) -> None:
        start.wait()
        same.extend(
            np.array_equal(session.decode(files[(i + k) % 4], output="np"), wanted[(i + k) % 4]) for k in range(2)
        )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 16


def test_two_decodes_are_inside_the_denoiser_at_the_same_time(data):
    """No lock around a decode: both threads must be in `predict` for either to go on."""
    session = open_session("nano_pixel")
    backbone, both = session.adapter.attached, threading.Barrier(2, timeout=60)
    predict = backbone.predict
    object.__setattr__(backbone, "predict", lambda *args: (both.wait(), predict(*args))[1])
    threads = [threading.Thread(target=session.decode, args=(data,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken


def test_a_loaded_session_does_not_wait_while_another_one_loads(data):
    loaded, held, done = open_session("nano_pixel"), threading.Event(), threading.Event()
    loaded.decode(data)

    def load():
        with _LOADING:
            held.set()
            done.wait(120)

    thread = threading.Thread(target=load)
    thread.start()
    held.wait()
    answers = []
    other = threading.Thread(target=lambda: answers.append(loaded.decode(data)))
    other.start()
    other.join(100)
    done.set()
    thread.join()
    assert answers


class NoFloat64(TorchDispatchMode):
    """A device without float64, as far as networks are concerned."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            assert not (isinstance(value, torch.Tensor) and value.dtype == torch.float64), f"{func} gave float64"
        return out


def test_no_network_needs_float64(data, photo):
    """Entropy coding needs it and stays in numpy on the CPU; what runs on the device does not (nano_dit's positions do not)."""
    session = open_session("nano_pixel", steps=2, renorm="predicted")
    wanted = session.decode(data, output="np")
    with NoFloat64():
        assert np.array_equal(session.decode(data, output="np"), wanted)
        assert session.encode(photo, quality=2, statistics=True) != data


def test_a_session_made_from_settings_checks_them_too(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="renorm=loud: wanted none, predicted, written"):
        Session(DecodeConfig(renorm="loud"))
    given = DecodeConfig(renorm="written", adapter="a.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").touch()
    session = Session(given)
    assert session.config.renorm is Renorm.written and session.config.adapter == str(tmp_path / "a.safetensors")
    assert given.adapter == "a.safetensors"  # the caller's own stay as they are
