"""The command line as a person meets it, in its own process where exit status and output matter."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import priorcodec
from priorcodec import cli
from priorcodec.core.codec import Codec
from priorcodec.core.image import io as image_io
from tests.helpers import DEMO, quick


def command(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "priorcodec.cli", *map(str, words)], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.fixture
def folder(tmp_path):
    pixels = image_io.load(DEMO).pixels
    (tmp_path / "in").mkdir()
    image_io.save(pixels[:70, :90], tmp_path / "in" / "a.png")
    image_io.save(pixels[100:180, 50:160], tmp_path / "in" / "b.jpg")
    return tmp_path


def test_a_warning_is_one_line(folder):
    code = "import sys, warnings; from priorcodec import cli; cli.app = lambda **_: warnings.warn('beware'); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: beware\n"


def test_an_empty_word_is_never_the_current_folder(folder):
    """`export "$UNSET"` filled it with files."""
    for words in (["export", ""], ["demo", "-o", ""], ["report", ""], ["decode", "a.gic", "--weights", ""]):
        done = command(*words, cwd=folder)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: got an empty word")
    assert [path.name for path in folder.iterdir()] == ["in"]


def test_encode_decode_preview_info_of_a_folder(folder):
    status, out, _ = quick("encode", folder / "in", "-o", folder / "gic", "-q", 2, "--json")
    rows = json.loads(out)
    assert status == 0 and [row["width"] for row in rows] == [90, 110]
    assert rows[0]["bytes"] == (folder / "gic" / "a.gic").stat().st_size
    assert quick("preview", folder / "gic")[0] == 0
    assert quick("preview", folder / "gic", "--perceptual")[0] == 0
    shown = [image_io.load(folder / "gic" / f"a.{name}.png").pixels for name in ("preview", "perceptual")]
    assert shown[0].shape == shown[1].shape and (shown[0] != shown[1]).any()
    assert quick("decode", folder / "gic", "--backbone", "toy")[0] == 0
    for name in ("a.preview.png", "a.toy.png", "b.toy.png"):
        assert (folder / "gic" / name).exists()
    status, out, _ = quick("info", folder / "gic" / "a.gic", "--json")
    info = json.loads(out)[0]
    assert info["header_bytes"] + info["string_bytes"] == info["bytes"] == rows[0]["bytes"]
    assert (info["quality"], info["width"], info["height"]) == (2.0, 90, 70)


def test_decode_settings(folder):
    source, file = folder / "in" / "a.png", folder / "a.gic"
    assert quick("encode", source, "-o", folder / "plain.gic", "-q", 1)[0] == 0
    assert quick("encode", source, "-o", file, "-q", 1, "--statistics")[0] == 0
    assert file.stat().st_size > (folder / "plain.gic").stat().st_size
    assert "Cb" in quick("info", file)[1]
    (folder / "own.yaml").write_text("steps: 2\nrenorm: predicted\n")
    options = {
        "default": (),
        "steps": ("--steps", 2, "--renorm", "written"),
        "config": ("--config", folder / "own.yaml", "--renorm", "written"),
        "blend": ("--blend", 0.25),
        "none": ("--renorm", "none"),
    }
    for name, words in options.items():
        assert quick("decode", file, "--backbone", "toy", *words, "-o", folder / f"{name}.png")[0] == 0
    default, steps, config, blend, none = (image_io.load(folder / f"{name}.png").pixels for name in options)
    assert (steps == config).all() and (steps != default).any() and (blend != default).any() and (none == default).all()
    status, _, message = quick(
        "decode", folder / "plain.gic", "--backbone", "toy", "--renorm", "written", "-o", folder / "x.png"
    )
    assert status == 2 and "encode --statistics" in message and "\n" not in message
    status, _, message = quick("decode", file, "--blend", -1)
    assert status == 2 and "blend=-1: wanted 0" in message
    status, _, message = quick("decode", file, "--steps", 9)
    assert status == 2 and "1 to 8" in message


@pytest.mark.parametrize(
    "words, part",
    [
        (("decode", "x.gic", "steps=8"), "--steps 8"),
        (("decode", "x.gic", "--steps", "4", "steps=2"), "--steps 2"),
        (("decode", "x.gic", "backbone.weights=a/b"), "--weights a/b"),
        (("decode", "x.gic", "max_pixels=9"), "--max-pixels 9"),
        (("decode", "x.gic", "dtipe=float32"), "nearest: --dtype"),
        (("encode", "x.png", "steps=8"), "encode has no option --steps; it is one of decode"),
        (("preview", "x.gic", "tile=0"), "--tile 0"),
        (("train", "adapter", "--steps", "4"), "wanted key=value words: steps="),
    ],
)
def test_there_is_one_way_to_give_a_setting(words, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, message = quick(*words)
    assert status == 2 and part in message and "\n" not in message


def test_a_file_whose_name_looks_like_a_setting_is_a_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shutil.copy("in/a.png", "steps=8.png")
    assert quick("encode", "steps=8.png")[0] == 0 and Path("steps=8.gic").exists()


def test_encode_takes_no_options_of_the_decoder(folder):
    for option in ("--steps", "--blend", "--renorm", "--backbone", "--adapter", "--weights", "--dtype", "--config"):
        assert quick("encode", folder / "in" / "a.png", option, "1")[0] == 2
    assert not list(folder.rglob("*.gic"))


def test_a_file_in_the_way_of_the_output_folder(folder):
    (folder / "taken.gic").write_bytes(b"mine")
    status, _, message = quick("encode", folder / "in" / "a.png", "-o", folder / "taken.gic" / "x.gic")
    assert status == 2 and "a file is in the way, wanted a folder" in message and "\n" not in message
    status, _, message = quick("demo", "-o", folder / "taken.gic" / "x")
    assert status == 2 and "a file is in the way, wanted a folder" in message and "\n" not in message
    assert (folder / "taken.gic").read_bytes() == b"mine"


def test_options_that_went(folder):
    for words in (
        ("encode", "x", "--bytes", "9"),
        ("encode", "x", "--max-bytes", "9"),
        ("decode", "x", "--strength", "1"),
    ):
        assert quick(*words)[0] == 2
    assert quick("encode", folder / "in" / "a.png", "--refine", 2, "--refine-metric", "toy")[0] == 2


def test_a_folder_run_goes_on_past_a_bad_file(folder):
    (folder / "in" / "c.png").write_bytes(b"no image")
    status, out, errors = quick("encode", folder / "in", "-o", folder / "gic")
    assert status == 1
    assert {path.name for path in (folder / "gic").iterdir()} == {"a.gic", "b.gic"}
    assert "1 of 3 files failed" in errors and "c.png" in errors


def test_nothing_is_overwritten_without_force(folder):
    source = folder / "in" / "a.png"
    assert quick("encode", source)[0] == 0
    status, _, message = quick("encode", source)
    assert status == 2 and "--force" in message
    assert quick("encode", source, "--force")[0] == 0


@pytest.mark.parametrize(
    "words,part",
    [
        (("encode", "missing.png"), "no such file"),
        (("encode", "-q", "12", DEMO), "quality is 12"),
        (("decode", DEMO), "not a .gic file"),
        (("decode", DEMO, "--backbone", "nano_pixl"), "nano_pixel"),
        (("decode", DEMO, "--backbone", "SDXL"), "nearest: sdxl"),
        (("decode", DEMO, "--adapter", "mine.safetensors"), "no file mine.safetensors"),
        (("decode", DEMO, "--no-plugin", "nope"), "no plugin 'nope' to leave out; known: nano_pixel"),
        (("decode", DEMO, "--renorm", "write"), "renorm=write: wanted none, predicted, written"),
        (("decode", DEMO, "--tile", "100"), "a multiple of 64 from 128 up, or 0"),
        (("encode", DEMO, "--layers", "residual"), "add latent to the layers"),
        (("encode", DEMO, "--residual", "11"), "wanted a number from 0 to 10"),
        (("encode", "photo.gic"), "is a .gic file already"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, part, tmp_path):
    status, _, message = quick(*words, "-o", tmp_path / ("out.gic" if words[0] == "encode" else "out.png"))
    assert status == 2 and part in message and "\n" not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("-q", "12"), ("--layers", "residual"), ("--residual", "11"), ("--roi", "1,2")])
def test_a_wrong_value_is_said_before_an_output_that_exists(words, folder):
    (folder / "in" / "a.gic").write_bytes(b"mine")
    status, _, message = quick("encode", folder / "in" / "a.png", *words)
    assert status == 2 and "exists" not in message and ("wanted" in message or "add latent" in message)


def test_mistakes_in_a_real_process_are_one_line(tmp_path):
    (tmp_path / "x.gic").write_bytes(b"GIC\x01 nonsense")
    wrong = [
        ("info", "x.gic"),
        ("info",),
        ("decode", "x.gic", "--renorm", "all"),
        ("--what",),
        ("nothing",),
        ("train",),
    ]
    for words in wrong:
        result = command(*words, cwd=tmp_path)
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_the_line_of_any_exception(monkeypatch, capsys):
    def fails(error):
        def app(**options):
            raise error

        monkeypatch.setattr(cli, "app", app)
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().err

    assert fails(KeyboardInterrupt()) == (130, "stopped\n")
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
    ):
        assert fails(error)[0] == 2 and "not enough memory" in fails(error)[1]
    assert fails(PermissionError(13, "Permission denied", "x")) == (2, "error: x: Permission denied\n")
    status, line = fails(KeyError("x"))
    assert status == 2 and "unexpected KeyError: 'x'; -v shows the traceback" in line and line.count("\n") == 1


def test_version_completion_and_the_bare_command():
    assert quick("--version") == (0, f"priorcodec {priorcodec.__version__}\n", "")
    assert "--install-completion" in quick("--help")[1]
    assert quick()[0] == 2


def test_verbose_shows_tracebacks(folder, monkeypatch):
    def load(*args, **options):
        raise KeyError("a bug")

    monkeypatch.setattr(image_io, "load", load)
    source = folder / "in" / "a.png"
    status, _, message = quick("encode", source)
    assert status == 2 and "unexpected KeyError" in message
    for words in (("-v", "encode", source), ("encode", source, "-v")):
        errors = CliRunner().invoke(cli.app, [str(word) for word in words]).stderr
        assert "Traceback" in errors
    assert "Traceback" not in CliRunner().invoke(cli.app, ["encode", str(source)]).stderr


def test_backbones_and_plugins_list_ours():
    rows = {row["name"]: row for row in json.loads(quick("backbones", "--json")[1])}
    assert {"nano_pixel", "nano_dit", "toy", "sd15", "sdxl", "pixart"} <= set(rows)
    assert rows["nano_pixel"]["weights"] == "here" and rows["nano_pixel"]["adapters"] == "default"
    assert rows["sd15"]["adapters"] == "none"
    assert "859.52M" in quick("backbones", "sd15")[1]
    names = [
        row["name"] for row in json.loads(quick("plugins", "--json", "--no-plugin", "sdxl")[1]) if not row["error"]
    ]
    assert "nano_pixel" in names
    assert "sdxl" not in {row["name"] for row in json.loads(quick("backbones", "--json", "--no-plugin", "sdxl")[1])}


@pytest.mark.parametrize("own", [None, "0"])
def test_the_environment_is_set_unless_the_user_says_otherwise(own, monkeypatch):
    for name in cli.ENVIRONMENT:
        monkeypatch.setenv(name, own or "")  # so that it is put back
        if own is None:
            monkeypatch.delenv(name)
    monkeypatch.setattr(cli, "app", lambda **options: None)
    with pytest.raises(SystemExit):
        cli.main()
    assert {name: os.environ[name] for name in cli.ENVIRONMENT} == {k: own or v for k, v in cli.ENVIRONMENT.items()}


def test_the_environment_comes_before_the_libraries_that_read_it():
    code = "import sys, priorcodec.cli; print(sorted({'numpy', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


HEAVY = (
    "torch",
    "diffusers",
    "peft",
    "PIL",
    "numpy",
    "omegaconf",
    "safetensors",
    "pluggy",
    "huggingface_hub",
    "yaml",
    "multiprocessing",
    "rich",
)


@pytest.mark.parametrize("words", [("--help",), ("encode", "--help"), ("decode", "--help"), ("--version",)])
def test_help_imports_little(words):
    code = f"""
import sys
before = set(sys.modules)
from priorcodec.cli import app
app({list(words)!r}, standalone_mode=False)
own = [name for name in sys.modules if name.startswith("priorcodec")]
new = {{name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names}}
print([name for name in {HEAVY!r} if name in sys.modules], len(new), len(own))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, count, own = done.stdout.splitlines()[-1].rsplit(" ", 2)
    assert heavy == "[]" and int(count) < 60 and int(own) < 20, done.stdout.splitlines()[-1]


def test_demo(folder):
    status, out, _ = quick("demo", "-o", folder / "demo", "--image", folder / "in" / "a.png", "--backbone", "toy")
    assert status == 0 and "AVIF" in out
    assert (folder / "demo" / "montage.png").exists()
    assert len(list((folder / "demo").glob("*.gic"))) == 3
    status, _, message = quick("demo", "-o", folder / "new", "--backbone", "toyy")
    assert status == 2 and "toyy" in message and not (folder / "new").exists()


def test_a_rate_target_for_every_image_of_a_folder(folder):
    rows = {}
    for name, option, value in (
        ("small", "--target-bytes", 130),
        ("large", "--target-bytes", 100_000),
        ("bpp", "--bpp", 0.15),
    ):
        status, out, errors = quick("encode", folder / "in", "-o", folder / name, option, value, "--json")
        assert status == 0 and ("highest quality" in errors) == (name == "large")
        rows[name] = json.loads(out)
    assert all(0.95 * 130 <= row["bytes"] <= 130 for row in rows["small"])
    assert all(0.14 < row["bpp"] <= 0.15 for row in rows["bpp"])
    assert all(row["quality"] == 11 for row in rows["large"])
    found = rows["small"][0]
    assert quick("encode", found["input"], "-o", folder / "a.gic", "-q", found["quality"])[0] == 0
    assert (folder / "a.gic").read_bytes() == (folder / "small" / "a.gic").read_bytes()


def test_a_rate_target_out_of_reach_names_the_range(folder):
    source, target = folder / "in" / "a.png", folder / "a.gic"
    status, _, message = quick("encode", source, "-o", target, "--target-bytes", 15)
    assert status == 2 and "wanted 15 bytes" in message and "a.png" in message and "\n" not in message
    assert not target.exists()
    status, _, errors = quick("encode", source, "-o", target, "--bpp", 9)
    assert status == 0 and "highest quality" in errors and errors.count("\n") == 1
    status, _, message = quick("encode", source, "--bpp", 1, "--quality", 2)
    assert status == 2 and "got --quality and --bpp" in message
    status, _, message = quick("encode", source, "--target-bytes", 0)
    assert status == 2 and "above 0" in message


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), KeyError(3), OSError(5, "I/O error")],
)
def test_one_image_may_fail_in_any_way(folder, monkeypatch, error):
    load = image_io.load

    def fails(source, **options):
        if Path(source).name == "a.png":
            raise error
        return load(source, **options)

    monkeypatch.setattr(image_io, "load", fails)
    status, _, errors = quick("encode", folder / "in", "-o", folder / "gic")
    assert status == 1 and (folder / "gic" / "b.gic").exists()
    assert "1 of 2 files failed" in errors and len(errors.splitlines()) == 2 and "a.png: " in errors
    if isinstance(error, MemoryError | RuntimeError):
        assert "not enough memory" in errors


def test_info_and_eval_go_on_past_bad_files(folder):
    assert quick("encode", folder / "in", "-o", folder / "gic")[0] == 0
    (folder / "gic" / "a0.gic").write_bytes(b"no file")
    good = folder / "gic" / "a.gic"
    status, out, errors = quick(
        "info", good, folder / "gone.gic", folder / "gic" / "a0.gic", folder / "gic" / "b.gic", "--json"
    )
    assert status == 1 and [Path(row["file"]).name for row in json.loads(out)] == ["a.gic", "b.gic"]
    assert "2 of 4 files failed" in errors and "gone.gic" in errors and "a0.gic" in errors
    (folder / "gic" / "a-bad.gic").write_bytes(b"no file")
    status, out, errors = quick("eval", folder / "in", folder / "gic", "--metrics", "psnr", "--format", "json")
    assert status == 1 and [row["file"] for row in json.loads(out)["rows"]] == ["a.gic", "b.gic"]
    assert "2 of 4 files failed" in errors and "a0.gic fits no reference" in errors and "a-bad.gic" in errors
    status, _, message = quick("eval", folder / "in" / "a.png", folder / "gic" / "a0.gic", "--metrics", "psnr")
    assert status == 2 and "a0.gic" in message and "\n" not in message


def test_an_empty_path_is_not_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder / "in")
    for words in (("encode", ""), ("encode", "a.png", "-o", ""), ("preview", "")):
        status, _, message = quick(*words)
        assert status == 2 and "got an empty path" in message
    assert sorted(path.name for path in (folder / "in").iterdir()) == ["a.png", "b.jpg"]


def test_a_model_that_cannot_be_loaded_is_tried_once(folder, monkeypatch):
    from priorcodec.registry import Registry

    assert quick("encode", folder / "in", "-o", folder / "gic")[0] == 0
    tried = []
    build = Registry.build
    monkeypatch.setattr(Registry, "build", lambda *words, **how: (tried.append(words), build(*words, **how))[1])
    (folder / "empty.safetensors").write_bytes(b"")
    status, out, message = quick("decode", folder / "gic", "--weights", folder / "empty.safetensors")
    assert status == 2 and not out and "cannot load" in message and "\n" not in message
    assert len(tried) == 1


def test_no_command_replaces_a_file_without_force(folder):
    source, kept = folder / "in" / "a.png", b"precious"
    before = source.read_bytes()
    (folder / "rd.json").write_bytes((Path(__file__).parents[2] / "benchmarks" / "results" / "speed.json").read_bytes())
    for name in ("table.txt", "page.html", "demo/montage.png", "models/manifest.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(kept)
    scored = ("eval", source, source, "--metrics", "psnr", "-o")
    for words, target in (
        ((*scored, folder / "table.txt"), "table.txt"),
        (("report", folder / "rd.json", "-o", folder / "page.html"), "page.html"),
        (("demo", "-o", folder / "demo", "--image", source, "--backbone", "toy"), "demo/montage.png"),
        (("export", folder / "models", "--no-decoder"), "models/manifest.json"),
    ):
        status, _, said = quick(*words)
        assert status == 2 and "--force" in said and (folder / target).read_bytes() == kept, words
        assert len(list((folder / target).parent.iterdir())) == 1 or "/" not in target
    assert quick(*scored, folder / "table.txt", "--force")[0] == 0 and b"PSNR" in (folder / "table.txt").read_bytes()
    status, _, said = quick(*scored, source, "--force")
    assert status == 2 and "the input" in said and source.read_bytes() == before


def test_a_file_that_appears_during_the_work_stays(folder, monkeypatch):
    def late(self, *args, **kwargs):
        (folder / "late.gic").write_bytes(b"precious")
        return encode(self, *args, **kwargs)

    encode = Codec.encode
    monkeypatch.setattr(Codec, "encode", late)
    status, _, said = quick("encode", folder / "in" / "a.png", "-q", "1", "-o", folder / "late.gic")
    assert status == 2 and "another program" in said and (folder / "late.gic").read_bytes() == b"precious"
    assert quick("encode", folder / "in" / "a.png", "-q", "1", "-o", folder / "late.gic", "--force")[0] == 0


def test_files_that_appear_during_a_demo_or_an_export_stay(folder, monkeypatch):
    from priorcodec import demo
    from priorcodec.export import manifest

    opened, tables = demo.open_session, manifest.tables
    late = [folder / "models" / "tables.safetensors", folder / "demo" / "a-q6-toy.png"]

    def appear(function, *args, **settings):
        late[-1].parent.mkdir()
        late[-1].write_bytes(b"precious")
        return function(*args, **settings)

    monkeypatch.setattr(demo, "open_session", lambda **settings: appear(opened, **settings))
    status, _, said = quick("demo", "-o", folder / "demo", "--image", folder / "in" / "a.png", "--backbone", "toy")
    assert status == 2 and "another program" in said
    assert late.pop().read_bytes() == b"precious"
    monkeypatch.setattr(manifest, "checked", lambda network, **_: b"graph")
    monkeypatch.setattr(manifest, "tables", lambda codec: appear(tables, codec))
    status, _, said = quick("export", folder / "models", "--no-decoder")
    assert status == 2 and "another program" in said
    assert late.pop().read_bytes() == b"precious"


def test_a_wrong_request_ends_before_the_first_file(folder):
    for words in (("--refine", 5, "--roi", "0,0,8,8"), ("--background", "nosuch")):
        status, out, said = quick("encode", folder / "in", "-o", folder / "new", *words)
        assert (status, out) == (2, "") and "wanted" in said and "\n" not in said and not (folder / "new").exists(), (
            words
        )


def test_info_of_a_folder_without_files(tmp_path):
    status, _, said = quick("info", tmp_path)
    assert status == 2 and "nothing to do" in said


def test_closed_standard_input_is_one_line(folder):
    for words in (["encode", "-", "-o", "c.gic"], ["info", "-"], ["regions", "-"]):
        line = [sys.executable, "-c", "import sys; sys.stdin = None; from priorcodec.cli import main; main()", *words]
        done = subprocess.run(line, capture_output=True, text=True, cwd=folder, check=False)
        assert done.returncode == 2 and "standard input (-) is closed" in done.stderr and done.stderr.count("\n") == 1


def test_ctrl_c_says_so():
    code = "import priorcodec.cli as c; from priorcodec.batch import runner\n"
    code += "def stop(*_, **__): raise KeyboardInterrupt\nrunner.expand = stop; c.main()"
    done = subprocess.run([sys.executable, "-c", code, "info", "x.gic"], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr == "stopped\n"


def test_previews_of_other_layers_are_not_kept(folder):
    source = folder / "in" / "a.png"
    assert quick("encode", source, "-q", "3", "--residual", "9", "-o", folder / "a.gic")[0] == 0
    preview = ("preview", folder / "a.gic", "-o", folder / "p.png", "--skip-existing")
    assert quick(*preview)[0] == 0 and "up to date" in quick(*preview)[1]
    status, _, said = quick(*preview, "--layers", "latent")
    assert status == 2 and "--force" in said
