"""What priorcodec-lite takes from priorcodec: the same text, no torch, and the same outcome for every file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from priorcodec.core.layers.semantic import SHIPPED
from tests.golden import layers
from tests.golden.check import ENCODER, golden
from tests.lite.assembled import LITE, shared
from tests.web.test_reader import LARGEST, area, damaged_files, in_another, in_python

ALONE = """
import importlib, pkgutil, sys
sys.modules["torch"] = sys.modules["onnxruntime"] = sys.modules["priorcodec"] = None
import priorcodec_lite
for module in pkgutil.walk_packages(priorcodec_lite.__path__, "priorcodec_lite."):
    importlib.import_module(module.name)
    print(module.name)
"""


def run(folder, *command, **options):
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=200, **options
    )


def test_copies_differ_from_their_sources_in_the_name_of_the_package_alone(folder):
    listed = shared()
    for name in listed.SHARED:
        copy = (folder / "priorcodec_lite" / name).read_text()
        assert copy.replace("priorcodec_lite.", "priorcodec.") == (listed.SOURCE / name).read_text(), name


def test_every_module_is_imported_without_torch_and_without_the_whole_package(folder):
    done = run(folder, "-c", ALONE)
    assert done.returncode == 0, done.stderr
    assert {"priorcodec_lite.pillow", "priorcodec_lite.command", "priorcodec_lite.core.entropy.frozen"} <= set(
        done.stdout.split()
    )


def test_the_command_limits_numpy_to_one_thread_unless_it_is_told_otherwise(folder):
    script = (
        "import os, sys; import priorcodec_lite; assert 'numpy' not in sys.modules; import priorcodec_lite.__main__; "
    )
    done = run(folder, "-c", script + "print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)")
    assert done.stdout == "1 True\n", done.stderr
    assert '"priorcodec_lite.__main__:run"' in (LITE / "pyproject.toml").read_text()


def in_lite(folder, files, max_pixels=2**26):
    command = [sys.executable, Path(__file__).with_name("read.py"), ENCODER, SHIPPED]
    return in_another(command, files, max_pixels, folder)


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_golden_file_holds_its_symbols(folder, large, record_property):
    files = {name: known for name, known in golden().items() if (area(name) > 2**19) == large}
    found = in_lite(folder, {name: data for name, (data, _) in files.items()})
    record_property("tries", len(files))
    assert {name: outcome.get("symbols") for name, outcome in found.items()} == {
        name: symbols for name, (_, symbols) in files.items()
    }


def test_every_golden_file_with_semantic_layers_holds_its_map_and_values(folder, record_property):
    files = layers.golden()
    found = in_lite(folder, {name: data for name, (data, _) in files.items()})
    record_property("tries", len(files))
    assert {name: outcome["regions"] for name, outcome in found.items()} == {
        name: digests for name, (_, digests) in files.items()
    }


def test_damaged_files_are_refused_in_the_same_line(folder, tmp_path, record_property):
    from priorcodec.core.exact_reader import ExactReader

    files, reader = damaged_files(tmp_path), ExactReader.load(ENCODER)
    record_property("tries", len(files))
    assert in_lite(folder, files, LARGEST) == {name: in_python(reader, data, LARGEST) for name, data in files.items()}


def test_a_folder_without_graphs_and_a_damaged_file_are_one_line(folder, tmp_path):
    done = run(folder, "-m", "priorcodec_lite", "decode", "a.gic", "--models", tmp_path)
    assert done.returncode == 2 and "no readable graphs" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "a.gic").write_bytes(b"GIC\x02")
    done = run(folder, "-m", "priorcodec_lite", "info", tmp_path / "a.gic")
    assert done.returncode == 2 and "damaged or cut short" in done.stderr and done.stderr.count("\n") == 1
