"""Plugins that raise in any hook or in `build`: each is named with its reason and stops nothing else."""

import dataclasses
import logging
import types

import pytest
import torch

from priorcodec import BackboneError, hookimpl
from priorcodec.registry import Problem, open_registry
from priorcodec.registry.plugins import Candidate
from tests.registry.test_registry import GOOD, SPEC, install, records, site  # noqa: F401

RAISING = {
    "exit_at_import": "raise SystemExit(3)",
    "exit_in_backbones": SPEC + "\n@hookimpl\ndef priorcodec_backbones():\n    raise SystemExit(3)\n",
    "panic_at_import": "class Panic(BaseException):\n    pass\n\nraise Panic('x')",
    "panic_in_backbones": SPEC
    + "\n@hookimpl\ndef priorcodec_backbones():\n    raise type('Panic', (BaseException,), {})('x')\n",
    "no_text": "class Mute(Exception):\n    def __str__(self):\n        raise ValueError\n\nraise Mute",
    "late_generator": SPEC
    + "\n@hookimpl\ndef priorcodec_backbones():\n    yield spec('b1')\n    raise KeyError('x')\n",
}
ASKED = {
    "exit_in_weights": "def priorcodec_weights(spec):\n    raise SystemExit(3)",
    "number_for_weights": "def priorcodec_weights(spec):\n    return 5",
    "exit_in_adapters": "def priorcodec_adapters(spec):\n    raise SystemExit(3)",
    "own_error_in_adapters": "def priorcodec_adapters(spec):\n    from priorcodec import ConfigError\n"
    "    raise ConfigError('x')",
    "weights_error_in_adapters": "def priorcodec_adapters(spec):\n    from priorcodec import WeightsError\n"
    "    raise WeightsError('x')",
    "generator_of_adapters": "def priorcodec_adapters(spec):\n    yield 1 / 0",
    "number_of_adapters": "def priorcodec_adapters(spec):\n    return 5",
    "numbers_for_adapters": "def priorcodec_adapters(spec):\n    return [5]",
}


def test_a_plugin_that_raises_anything_in_any_hook_is_named_and_stops_no_other(site):  # noqa: F811
    asked = {name: f"from priorcodec import hookimpl\n@hookimpl\n{code}\n" for name, code in ASKED.items()}
    install(site, RAISING | asked | {"good": GOOD})
    registry = open_registry()
    assert all(records(registry)[name].error for name in RAISING)
    assert records(registry)["good"].backbones == ("other",)
    toy = registry.spec("toy")
    assert registry.weights(toy).exists() and [source.name for source in registry.adapters(toy)] == ["default"]
    found = records(registry)
    for name in ASKED:
        assert found[name].problem is Problem.SPEC and " raised " in found[name].error, found[name]
        assert "\n" not in found[name].error


def test_one_object_under_two_names_is_listed_as_a_duplicate():
    plugin, registry = types.SimpleNamespace(priorcodec_adapters=hookimpl(lambda: [])), open_registry()
    for name in ("one", "two"):
        registry.add(Candidate(name=name, origin="test", distribution="", version="", load=lambda: plugin))
    found = records(registry)
    assert found["one"].problem is None and found["two"].problem is Problem.DUPLICATE


def test_ctrl_c_while_a_plugin_is_imported_ends_the_program(site):  # noqa: F811
    """A plugin whose import hangs is the user's to interrupt; the log says which one it is."""
    install(site, {"hanging": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        open_registry()


def test_the_log_names_each_plugin_before_it_is_imported(site, caplog):  # noqa: F811
    install(site, {"good": GOOD})
    with caplog.at_level(logging.DEBUG, logger="priorcodec.registry"):
        open_registry()
    assert "importing plugin good from package good-pkg" in caplog.text


@pytest.fixture
def faulty():
    """faulty(action): a registry with a backbone `faulty`, the toy one, whose `build` does the action as well."""

    def make(action):
        registry = open_registry()
        toy = registry.spec("toy")

        def build(weights, *, dtype):
            action()
            return toy.build(weights, dtype=dtype)

        spec = dataclasses.replace(toy, name="faulty", build=build)
        plugin = types.SimpleNamespace(priorcodec_backbones=hookimpl(lambda: [spec]))
        assert not registry.add(Candidate(name="faulty", origin="test", load=lambda: plugin)).error
        return registry

    return make


@pytest.mark.parametrize("error", [ZeroDivisionError("x\ny"), SystemExit(3)])
def test_build_that_raises_is_one_line(faulty, error):
    def fail():
        raise error

    registry = faulty(fail)
    with pytest.raises(
        BackboneError, match="build of faulty raised .*; report it to the authors of plugin 'faulty'"
    ) as caught:
        registry.build(registry.spec("faulty"), None, dtype=torch.float32)
    assert "\n" not in str(caught.value) and records(registry)["faulty"].problem is Problem.SPEC


@pytest.mark.parametrize("built", [5, torch.nn.Linear(1, 1)])
def test_what_is_no_backbone_is_one_line(built):
    registry = open_registry()
    spec = dataclasses.replace(registry.spec("toy"), build_tiny=lambda: built)
    with pytest.raises(BackboneError, match="build_tiny of toy raised TypeError: gave .* wanted a priorcodec.Backbone"):
        registry.build(spec, None, dtype=torch.float32, tiny=True)


def test_plugins_asks_every_hook_and_strict_ends_it(site, monkeypatch):  # noqa: F811
    asked = {name: f"from priorcodec import hookimpl\n@hookimpl\n{code}\n" for name, code in ASKED.items()}
    install(site, asked)
    registry = open_registry()
    registry.probe()
    assert all(" raised " in records(registry)[name].error for name in ASKED)
    monkeypatch.setenv("PRIORCODEC_STRICT_PLUGINS", "1")
    with pytest.raises(BackboneError, match=f"{len(ASKED)} plugins failed"):
        open_registry()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prediction": "sampel"}, "prediction is 'sampel', wanted noise, velocity, sample, flow"),
        ({"lora": ["conv"]}, r"lora is \['conv'\], wanted a tuple"),
        ({"lora": ("conv",)}, "lora has 'conv', wanted LoraRule"),
        ({"build": None}, "build is None, wanted a function"),
        ({"name": None}, "name is None, wanted text"),
        ({"latent": 5}, "latent is 5, wanted LatentSpace"),
        ({"api": "1"}, "api is '1', wanted a whole number"),
        ({"parameters": True}, "parameters is True, wanted a whole number"),
    ],
)
def test_a_field_of_another_kind_is_named_with_what_was_wanted(change, words):
    with pytest.raises(BackboneError, match=words):
        dataclasses.replace(open_registry().spec("toy"), **change)


def test_one_backbone_in_place_of_a_list(site):  # noqa: F811
    install(site, {"single": SPEC + "\n@hookimpl\ndef priorcodec_backbones():\n    return spec('b1')\n"})
    assert "gave one priorcodec.BackboneSpec, wanted a list" in records(open_registry())["single"].error


def test_terminal_codes_in_an_error_are_shown_as_text(site):  # noqa: F811
    install(site, {"colored": "raise RuntimeError('boom\\n\\x1b[31m')"})
    assert records(open_registry())["colored"].error.isprintable()
