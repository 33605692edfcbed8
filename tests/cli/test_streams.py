"""Standard input and output, names that cannot be printed, and outputs that are no regular files, in real processes."""

import json
import logging
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from priorcodec import cli
from priorcodec.cli import options
from priorcodec.core import container
from priorcodec.core.errors import ConfigError, PriorCodecError
from priorcodec.core.image import io as image_io
from tests.helpers import DEMO
from tests.registry.test_registry import install


@pytest.fixture
def folder(tmp_path):
    image_io.save(image_io.load(DEMO).pixels[:64, :64], tmp_path / "a.png")
    return tmp_path


def command(*words, cwd, **environment):
    """In a process of its own."""
    words = [sys.executable, "-m", "priorcodec.cli", *words]
    return subprocess.run(words, cwd=cwd, capture_output=True, env=os.environ | environment, check=False)


def run(*words, data=b""):
    """In this process -> (exit status, standard output, standard error or the line of an error)."""
    done = CliRunner().invoke(cli.app, words, input=data)
    error = isinstance(done.exception, PriorCodecError)
    return 2 if error else done.exit_code, done.stdout_bytes, str(done.exception) if error else done.stderr


def test_through_standard_input_and_output(folder, monkeypatch):
    monkeypatch.chdir(folder)
    photo, coded = (folder / "a.png").read_bytes(), b""
    for words in (("-",), ("-", "-o", "-"), ("a.png", "-o", "/dev/stdout"), ("/dev/stdin", "-o", "/dev/fd/1")):
        status, coded, errors = run("encode", *words, "-q", "1", data=photo)
        assert status == 0 and container.unpack(coded).quality == 16 and "bytes" in errors
    status, image, _ = run("preview", "-", data=coded)
    assert status == 0 and image_io.load(image).pixels.shape == (64, 64, 3)
    status, image, _ = run("decode", "-", "--backbone", "toy", "-o", "-", data=coded)
    assert status == 0 and image_io.load(image).pixels.shape == (64, 64, 3)
    status, rows, _ = run("preview", "-", "-o", "p.png", "--json", data=coded)
    assert json.loads(rows)[0]["input"] == "-" and image_io.load("p.png").pixels.shape == (64, 64, 3)
    assert json.loads(run("info", "-", "--json", data=coded)[1])[0]["bytes"] == len(coded)
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "p.png"]


def test_a_mistake_writes_nothing_to_standard_output(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for words in (("encode", "-"), ("preview", "-"), ("encode", "-", "a.png"), ("encode", ".", "-o", "-")):
        status, out, error = run(*words, data=b"neither image nor file")
        assert (status, out) == (2, b"") and "\n" not in error


def test_a_binary_output_is_not_for_a_terminal(folder, monkeypatch):
    monkeypatch.setattr("sys.stdout", types.SimpleNamespace(isatty=lambda: True))
    with pytest.raises(ConfigError, match="standard output is a terminal"):
        options.output_path("-", [])


def test_a_redirected_standard_output_and_a_pipe_with_a_name(folder):
    with (folder / "out.gic").open("wb") as out:
        words = [sys.executable, "-m", "priorcodec.cli", "encode", "a.png", "-o", "/dev/stdout", "-q", "1"]
        assert subprocess.run(words, cwd=folder, stdout=out, stderr=subprocess.DEVNULL, check=False).returncode == 0
    data = (folder / "out.gic").read_bytes()
    assert container.unpack(data).quality == 16
    os.mkfifo(folder / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((folder / "pipe").read_bytes()), daemon=True)
    reader.start()
    assert command("encode", "a.png", "-o", "pipe", "-q", "1", cwd=folder).returncode == 0
    reader.join(60)
    assert read == [data]


def test_names_that_cannot_be_printed_end_no_run(folder):
    strange = Path(os.fsdecode(b"\xff\xe4 b\n.png"))
    (folder / "in").mkdir()
    (folder / "a.png").rename(folder / "in" / "ä.png")
    (folder / "in" / strange).write_bytes((folder / "in" / "ä.png").read_bytes())
    (folder / "in" / os.fsdecode(b"\xfe.png")).write_bytes(b"no image")
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = command("encode", "in", "-o", "out", "-q", "1", "--workers", "2", cwd=folder, **environment)
    assert done.returncode == 1, done.stderr
    assert b"1 of 3 files failed" in done.stderr and done.stderr.count(b"\n") == 2
    assert {path.name for path in (folder / "out").iterdir()} == {"ä.gic", strange.stem + ".gic"}


def test_a_closed_standard_output_is_one_line(folder):
    command("encode", "a.png", "-q", "1", cwd=folder)
    for words in ("encode a.png -o -", "decode a.gic --backbone toy -o -"):
        done = subprocess.run(
            f"{sys.executable} -m priorcodec.cli {words} >&-", shell=True, cwd=folder, capture_output=True, check=False
        )
        assert done.returncode == 2 and b"standard output is closed" in done.stderr and done.stderr.count(b"\n") == 1


def test_a_closed_standard_error_changes_nothing(folder):
    (folder / "in").mkdir()
    (folder / "a.png").rename(folder / "in" / "a.png")
    (folder / "in" / "b.png").write_bytes(b"no image")
    for words, status in (
        ("encode in -o out -q 1", 1),
        ("encode in/b.png -o b.gic", 2),
        ("encode in/a.png -o - -q 1", 0),
    ):
        done = subprocess.run(
            f"{sys.executable} -m priorcodec.cli {words} 2>&-",
            shell=True,
            cwd=folder,
            stdout=subprocess.PIPE,
            check=False,
        )
        assert done.returncode == status
    assert container.unpack(done.stdout).quality == 16
    assert container.unpack((folder / "out" / "a.gic").read_bytes()).quality == 16 and not (folder / "b.gic").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
@pytest.mark.parametrize("words", ["encode a.png -o -", "backbones --json", "encode a.png -o b.gic --json"])
def test_a_full_standard_output_is_one_line(folder, words):
    done = subprocess.run(
        f"{sys.executable} -m priorcodec.cli {words} > /dev/full",
        shell=True,
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2 and b"No space left" in done.stderr and done.stderr.count(b"\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error(folder):
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m priorcodec.cli backbones --json | true",
        shell=True, executable="/bin/bash", cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1) and done.stderr == b""


LOUD = """
import os, subprocess
from priorcodec import hookimpl
from priorcodec.backbones.builtin._toy_model import Toy

def shout():
    print("PRINTED")
    os.write(1, b"WRITTEN")
    subprocess.run(["echo", "ECHOED"])

def predict(self, *args, before=Toy.predict):
    shout()
    if os.environ.get("LEAVES"):
        raise SystemExit(0)
    return before(self, *args)

Toy.predict = predict

@hookimpl
def priorcodec_adapters(spec):
    shout()
"""


@pytest.fixture
def loud(tmp_path_factory):
    """Environment with a plugin that writes to standard output in every way there is."""
    site = tmp_path_factory.mktemp("site")
    install(site, {"loud": LOUD})
    return {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def test_standard_output_is_the_commands_whatever_plugins_do(folder, loud):
    assert command("encode", "a.png", "-q", "1", cwd=folder).returncode == 0
    done = command("decode", "a.gic", "--backbone", "toy", "-o", "-", cwd=folder, **loud)
    assert image_io.load(done.stdout).pixels.shape == (64, 64, 3) and done.stderr.count(b"WRITTEN") >= 2
    assert done.stdout.startswith(b"\x89PNG")
    done = command(
        "eval", "a.png", "a.gic", "--metrics", "psnr", "--backbone", "toy", "--format", "json", cwd=folder, **loud
    )
    assert json.loads(done.stdout)["mean"]["psnr"] > 10 and b"ECHOED" in done.stderr
    for words in (("backbones",), ("decode", "a.gic", "--backbone", "toy", "--workers", "2", "--force")):
        done = command(*words, "--json", cwd=folder, **loud)
        assert isinstance(json.loads(done.stdout), list), words


def test_a_plugin_that_ends_the_program_is_an_error(folder, loud):
    words = ["backbone=toy", "tiny=true", "data=a.png", "run=run", "crop=64", "steps=1", "loss.perceptual=0", "batch=1"]
    done = command("train", "adapter", *words, cwd=folder, LEAVES="1", **loud)
    assert done.returncode == 2 and b"tried to end the program" in done.stderr and not done.stdout


def test_what_a_file_says_of_itself_reaches_no_terminal(folder, monkeypatch):
    """An adapter's metadata, and names of files in the log."""
    from priorcodec.batch.logs import StderrHandler
    from priorcodec.cli.plugins import lines

    shown = lines({"file": "a", "metadata": {"license": "MIT\n\x1b[31mfits  yes"}})
    assert "\x1b" not in shown and shown.count("\n") == 2
    record = logging.LogRecord("priorcodec", logging.WARNING, "", 0, "left out: %s", ("a\x1b]0;x\x07.png",), None)
    assert StderrHandler().format(record) == "left out: a?]0;x?.png"
