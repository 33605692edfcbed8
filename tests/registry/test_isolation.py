"""Guests that behave badly: hanging, printing, raising, turning torch's switches. Named with the reason; nothing of it stays."""

import dataclasses
import json
import os
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from priorcodec import BackboneError, ConfigError, hookimpl, open_session
from priorcodec.core.errors import PluginWarning
from priorcodec.core.image import io as image_io
from priorcodec.registry import Problem, isolation, open_registry
from priorcodec.registry.plugins import Candidate
from tests.core.test_codec import DEMO
from tests.registry.test_registry import GOOD, SPEC, install, records, site  # noqa: F401

SWITCHES = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "grad mode": "torch.set_grad_enabled(False)",
    "deterministic flag": "torch.use_deterministic_algorithms(True)",
    "number of threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "float32 matmul precision": "torch.set_float32_matmul_precision('medium')",
    "mkldnn switch": "torch.backends.mkldnn.enabled = False",
    "cudnn switches": "torch.backends.cudnn.benchmark = True",
    "random seed": "torch.manual_seed(7)",
}
IN_A_THREAD = [name for name in SWITCHES if name != "grad mode"]  # which is a thread's own: there it changes nothing


def values():
    return {name: value for name, (value, _) in isolation._switches().items()}


@pytest.fixture
def unchanged():
    before, random = values(), torch.get_rng_state()
    yield
    assert values() == before and torch.equal(torch.get_rng_state(), random)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before["number of threads"]


def given(name, plugin):
    return Candidate(name=name, origin="test", distribution="", version="", load=lambda: plugin)


@pytest.mark.parametrize("name", IN_A_THREAD)
def test_a_switch_turned_at_import_is_told_and_put_back(site, unchanged, monkeypatch, name):  # noqa: F811
    monkeypatch.setenv("PRIORCODEC_PLUGIN_SECONDS", "120")  # the deterministic flag loads half of torch
    install(site, {"turner": f"import torch\n{SWITCHES[name]}\n{GOOD}"})
    record = records(open_registry())["turner"]
    assert record.problem is Problem.SIDE and record.error == f"side effect: it changes torch's {name}"
    assert record.backbones == ("stranger",)


def test_also_when_the_guest_is_who_loads_torch(tmp_path):
    install(tmp_path, {"turner": "import torch\n" + "\n".join(SWITCHES.values()) + GOOD})
    code = """
import json
from priorcodec.registry import isolation, open_registry
record = {r.name: r for r in open_registry().plugins()}["turner"]
import torch
print(json.dumps([record.error, *(str(v) for v, _ in isolation._switches().values())]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    environment["PRIORCODEC_PLUGIN_SECONDS"] = "120"
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    error, *after = json.loads(done.stdout)
    assert all(f"changes torch's {name}" in error for name in IN_A_THREAD), error
    assert after[:6] == ["torch.float32", "cpu", "True", "False", "1", "highest"]
    assert after[6] == "True" and after[-1] != "7"


def test_a_guest_that_hangs_is_named_and_left_behind(site, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PRIORCODEC_PLUGIN_SECONDS", "0.5")
    install(site, {"hanging": f"import time\ntime.sleep(10)\n{GOOD}", "slow": SPEC + "\nimport time\n"
            "@hookimpl\ndef priorcodec_backbones():\n    time.sleep(10)\n    return []\n", "zgood": GOOD})  # fmt: skip
    started = time.monotonic()
    found = records(open_registry())
    assert time.monotonic() - started < 6
    for name in ("hanging", "slow"):
        assert found[name].problem is Problem.IMPORT and "within 0.5 s" in found[name].error
    assert found["zgood"].backbones == ("stranger",) and not found["zgood"].error


def test_the_program_ends_while_a_guest_hangs(tmp_path):
    install(tmp_path, {"hanging": "import time\ntime.sleep(60)\n"})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    environment["PRIORCODEC_PLUGIN_SECONDS"] = "1"
    command = [sys.executable, "-m", "priorcodec.cli", "plugins"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=50)
    assert done.returncode == 0
    assert any(
        line.startswith("hanging") and "not imported and asked within 1 s" in line for line in done.stdout.splitlines()
    )


@pytest.mark.parametrize("seconds", ["soon", "-1", "nan"])
def test_an_impossible_limit_is_refused(monkeypatch, seconds):
    monkeypatch.setenv("PRIORCODEC_PLUGIN_SECONDS", seconds)
    with pytest.raises(ConfigError, match="PRIORCODEC_PLUGIN_SECONDS is"):
        open_registry()


PRINTS = f"""
print('{{"a": 1}}')
{GOOD}
print("loaded")

@hookimpl
def priorcodec_adapters(spec):
    print("asked")
    return []
"""


def test_what_a_guest_prints_reaches_no_output_of_ours(tmp_path):
    install(tmp_path, {"loud": PRINTS})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    for command in ("plugins", "backbones"):
        words = [sys.executable, "-m", "priorcodec.cli", command, "--json"]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        rows = json.loads(done.stdout)
        assert "loaded" in done.stderr
        if command == "plugins":
            (row,) = [row for row in rows if row["name"] == "loud"]
            assert row["error"] == "side effect: it prints to standard output: '{\"a\": 1}'"
            assert row["backbones"] == "stranger"


def test_others_may_print_while_a_guest_is_here(capsys):
    with isolation._output_kept([]) as output:
        output.guest = -1
        print("ours")
    assert capsys.readouterr().out == "ours\n"


RAISING = {
    "exit_at_import": "raise SystemExit(3)",
    "interrupt_at_import": "raise KeyboardInterrupt",
    "exit_in_backbones": SPEC + "\n@hookimpl\ndef priorcodec_backbones():\n    raise SystemExit(3)\n",
    "late_generator": SPEC
    + "\n@hookimpl\ndef priorcodec_backbones():\n    yield spec('b1')\n    raise KeyError('x')\n",
}
ASKED = {
    "exit_in_weights": "def priorcodec_weights(spec):\n    raise SystemExit(3)",
    "number_for_weights": "def priorcodec_weights(spec):\n    return 5",
    "exit_in_adapters": "def priorcodec_adapters(spec):\n    raise SystemExit(3)",
    "generator_of_adapters": "def priorcodec_adapters(spec):\n    yield 1 / 0",
    "number_of_adapters": "def priorcodec_adapters(spec):\n    return 5",
    "numbers_for_adapters": "def priorcodec_adapters(spec):\n    return [5]",
}


def test_a_guest_that_raises_anything_in_any_hook_is_named_and_stops_nobody(site):  # noqa: F811
    asked = {name: f"from priorcodec import hookimpl\n@hookimpl\n{code}\n" for name, code in ASKED.items()}
    install(site, RAISING | asked | {"good": GOOD})
    registry = open_registry()
    assert all(records(registry)[name].error for name in RAISING)
    assert records(registry)["good"].backbones == ("stranger",)
    toy = registry.spec("toy")
    assert registry.weights(toy).exists() and [source.name for source in registry.adapters(toy)] == ["default"]
    found = records(registry)
    for name in ASKED:
        assert found[name].problem is Problem.SPEC and " raised " in found[name].error, found[name]
        assert "\n" not in found[name].error


@pytest.fixture
def hostile():
    """hostile(action): a registry in which backbone `turner` is the toy one, and `build` does the action too."""

    def make(action):
        registry = open_registry()
        toy = registry.spec("toy")

        def build(weights, *, dtype):
            action()
            return toy.build(weights, dtype=dtype)

        spec = dataclasses.replace(toy, name="turner", build=build)
        plugin = types.SimpleNamespace(priorcodec_backbones=hookimpl(lambda: [spec]))
        assert not registry.add(given("turner", plugin)).error
        return registry

    return make


def test_build_changes_no_switch_and_no_other_backbones_image(hostile):
    data = open_session().encode(image_io.load(DEMO).pixels[:64, :64], 1)
    wanted = open_session("toy").decode_pixels(data)

    def turn():
        for code in SWITCHES.values():
            exec(code, {"torch": torch})
        print("building")

    registry = hostile(turn)
    before, random = values(), torch.get_rng_state()
    with pytest.warns(PluginWarning, match="plugin 'turner': build of turner prints .*'building' and changes") as said:
        registry.build(registry.spec("turner"), registry.weights(registry.spec("toy")), dtype=torch.float32)
    assert values() == before and torch.equal(torch.get_rng_state(), random)
    assert all(f"changes torch's {name}" in str(said[0].message) for name in SWITCHES)
    assert records(registry)["turner"].error.startswith("side effect: build of turner prints")
    assert np.array_equal(open_session("toy", registry=registry).decode_pixels(data), wanted)


@pytest.mark.parametrize("error", [ZeroDivisionError("x\ny"), SystemExit(3)])
def test_build_that_raises_is_one_line(hostile, error):
    def fail():
        raise error

    registry = hostile(fail)
    with pytest.raises(BackboneError, match="build of turner raised .*; tell the authors of plugin 'turner'") as caught:
        registry.build(registry.spec("turner"), None, dtype=torch.float32)
    assert "\n" not in str(caught.value) and records(registry)["turner"].problem is Problem.SPEC


@pytest.mark.parametrize("name", ["toy", "nano_unet", "nano_dit"])
def test_ours_are_good_guests(name, unchanged, recwarn):
    registry = open_registry()
    spec = registry.spec(name)
    registry.build(spec, registry.weights(spec), dtype=torch.float32)
    assert not [w for w in recwarn if issubclass(w.category, PluginWarning)]
