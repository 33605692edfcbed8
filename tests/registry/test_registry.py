"""Loading plugins, built-in, installed and broken ones: each named with its reason, none stopping another."""

import dataclasses
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from priorcodec import BackboneError, ImageInput, LatentSpace, LoraRule, Prediction, PriorCodecError, WeightsError
from priorcodec.registry import Problem, open_registry
from priorcodec.registry.plugins import DEFAULT_PLUGINS

SPEC = """
from priorcodec import BackboneSpec, LatentSpace, Prediction, hookimpl

def spec(name, **more):
    return BackboneSpec(
        name=name, summary="s", license="MIT", source="here", parameters=1,
        latent=LatentSpace(channels=1, stride=8, scale=1.0, mean=(0.0,), std=(1.0,)), prediction=Prediction.NOISE,
        token_dim=8, build=lambda weights, *, dtype: None, build_tiny=lambda: None, **more)
"""
GOOD = SPEC + "\n@hookimpl\ndef priorcodec_backbones():\n    return [spec('other')]\n"
BROKEN = {
    "b_import": "import no_such_library\n",
    "b_misspelled": SPEC + "\n@hookimpl\ndef priorcodec_backbone():\n    return [spec('a1')]\n",
    "b_api": SPEC + "\n@hookimpl\ndef priorcodec_backbones():\n    return [spec('a2', api=2)]\n",
    "b_duplicate": SPEC + "\n@hookimpl\ndef priorcodec_backbones():\n    return [spec('a3'), spec('sd15')]\n",
    "b_argument": SPEC + "\n@hookimpl\ndef priorcodec_backbones(device):\n    return [spec('a4')]\n",
    "b_spec": SPEC + "\n@hookimpl\ndef priorcodec_backbones():\n    return [spec('Not A Name')]\n",
}
REASONS = {
    "b_import": (Problem.IMPORT, "no_such_library"),
    "b_misspelled": (Problem.HOOK, "nearest: priorcodec_backbones"),
    "b_api": (Problem.API, "upgrade priorcodec"),
    "b_duplicate": (Problem.DUPLICATE, "'sd15' is already provided by plugin 'sd15'"),
    "b_argument": (Problem.ARGUMENT, "device"),
    "b_spec": (Problem.SPEC, "Not A Name"),
}


def install(folder, plugins):
    """What pip leaves behind: a module and the metadata of a package with an entry point, for each plugin."""
    for name, code in plugins.items():
        (folder / f"{name}.py").write_text(code)
        info = folder / f"{name}_pkg-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-pkg\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[priorcodec]\n{name} = {name}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for variable in ("DISABLE", "LOAD", "STRICT"):
        monkeypatch.delenv(f"PRIORCODEC_{variable}_PLUGINS", raising=False)
    yield tmp_path
    for name in [n for n, m in sys.modules.items() if str(tmp_path) in str(getattr(m, "__file__", ""))]:
        del sys.modules[name]


def records(registry):
    return {r.name: r for r in registry.plugins()}


def test_six_broken_plugins_at_once_and_every_good_one_works(site):
    install(site, BROKEN | {"good": GOOD})
    registry = open_registry()
    found = records(registry)
    for name, (problem, words) in REASONS.items():
        assert found[name].problem is problem, found[name]
        assert words in found[name].error
        assert found[name].error.startswith(str(problem))
        assert "\n" not in found[name].error
        assert found[name].backbones == ()
    assert found["good"].backbones == ("other",)
    assert (found["good"].origin, found["good"].version) == ("package good-pkg", "1.2")
    assert {"sd15", "sd21", "sd21.base", "sdxl", "pixart", "pixart.sigma", "other"} <= set(registry.specs())
    assert not {"a1", "a2", "a3", "a4"} & set(registry.specs())
    assert registry.spec("other").license == "MIT"


def test_unknown_backbone_names_the_nearest_and_the_failed_plugins(site):
    install(site, BROKEN)
    with pytest.raises(BackboneError) as caught:
        open_registry().spec("sdlx")
    text = str(caught.value)
    assert "nearest: sdxl" in text
    assert all(name in text for name in BROKEN)
    assert "\n" not in text


def test_strict_turns_a_failure_into_an_error(site, monkeypatch):
    install(site, BROKEN)
    monkeypatch.setenv("PRIORCODEC_STRICT_PLUGINS", "0")
    open_registry()
    monkeypatch.setenv("PRIORCODEC_STRICT_PLUGINS", "1")
    with pytest.raises(BackboneError) as caught:
        open_registry()
    assert all(name in str(caught.value) for name in BROKEN)


def test_every_default_plugin_works(site, monkeypatch):
    monkeypatch.setenv("PRIORCODEC_LOAD_PLUGINS", "")
    found = records(open_registry())
    assert set(found) == set(DEFAULT_PLUGINS)
    assert not [r.error for r in found.values() if r.error]


def test_disable_by_variable_by_argument_and_by_package_name(site, monkeypatch):
    install(site, {"good": GOOD, "other": GOOD.replace("other", "third")})
    monkeypatch.setenv("PRIORCODEC_DISABLE_PLUGINS", "other-pkg, sd21")
    registry = open_registry(disabled=["good"])
    assert not {"other", "third", "sd21", "sd21.base"} & set(registry.specs())
    assert {n for n, r in records(registry).items() if r.disabled} == {"good", "other", "sd21"}
    with pytest.raises(BackboneError, match="disabled: .*sd21"):
        registry.spec("sd21")


def test_a_disabled_plugin_that_does_not_exist_is_named(site, monkeypatch, caplog):
    monkeypatch.setenv("PRIORCODEC_DISABLE_PLUGINS", "sd12")
    open_registry()
    assert "PRIORCODEC_DISABLE_PLUGINS names sd12, which is not installed" in caplog.text


def test_a_disabled_plugin_is_not_even_imported(site):
    install(site, {"loud": "raise SystemExit('imported')"})
    assert records(open_registry())["loud"].problem is Problem.IMPORT
    assert records(open_registry(disabled=["loud"]))["loud"].error == ""


def test_load_plugins_names_the_only_ones_and_empty_means_none(site, monkeypatch):
    install(site, {"good": GOOD, "other": GOOD.replace("other", "third")})
    monkeypatch.setenv("PRIORCODEC_LOAD_PLUGINS", "")
    assert not {"other", "third"} & set(open_registry().specs())
    monkeypatch.setenv("PRIORCODEC_LOAD_PLUGINS", "other,absent")
    registry = open_registry()
    assert "third" in registry.specs()
    assert "other" not in registry.specs()
    assert "sd15" in registry.specs()
    assert "no installed package" in records(registry)["absent"].error


def test_an_unmarked_hook_a_wrong_type_and_a_repeated_name_are_named(site):
    install(site, {
        "bare": SPEC + "\ndef priorcodec_backbones():\n    return [spec('a5')]\n",
        "empty": "x = 1\n",
        "strange": "from priorcodec import hookimpl\n\n@hookimpl\ndef priorcodec_backbones():\n    return [1]\n",
        "toplevel": SPEC + "\nSPEC = spec('Bad Name')\n",
        "newer": SPEC + "\nSPEC = spec('fine', api=2)\n",
        "sdxl": GOOD,
    })  # fmt: skip
    found = open_registry().plugins()
    errors = {(r.name, r.origin): (r.problem, r.error) for r in found if r.error}
    assert errors["bare", "package bare-pkg"][0] is Problem.HOOK
    assert "@priorcodec.hookimpl" in errors["bare", "package bare-pkg"][1]
    assert errors["empty", "package empty-pkg"][0] is Problem.HOOK
    assert "int" in errors["strange", "package strange-pkg"][1]
    assert errors["toplevel", "package toplevel-pkg"][0] is Problem.SPEC
    assert errors["newer", "package newer-pkg"][0] is Problem.API
    assert errors["sdxl", "package sdxl-pkg"][0] is Problem.DUPLICATE


def test_eight_threads_load_plugins_at_once_and_standard_output_stays_the_programs(site, capsys):
    install(site, {"good": GOOD + "\nprint('imported')\n", "zbad": BAD_HOOKS})
    stdout = sys.stdout

    def load(_):
        registry = open_registry()
        assert sys.stdout is stdout
        for spec in registry.specs().values():
            registry.adapters(spec)
        return set(registry.specs()), records(registry)["zbad"].problem

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load, range(16)))
    assert all(names == found[0][0] and "other" in names and problem is Problem.SPEC for names, problem in found)
    assert capsys.readouterr().out == "imported\n"


def test_two_registries_share_nothing(site):
    one, two = open_registry(), open_registry(disabled=["sdxl"])
    assert "sdxl" in one.specs()
    assert "sdxl" not in two.specs()
    one.specs().clear()
    assert "sdxl" in one.specs()


HOOKS = GOOD + textwrap.dedent("""
    from pathlib import Path
    from priorcodec import AdapterSource

    @hookimpl
    def priorcodec_weights(spec):
        return Path(__file__) if spec.name == "other" else None

    @hookimpl
    def priorcodec_adapters(spec):
        return [AdapterSource(name="mine", location="/a.safetensors")] if spec.name == "sd15" else []
""")
BAD_HOOKS = "from priorcodec import hookimpl\n" + "\n".join(
    f"@hookimpl\ndef {hook}(spec):\n    return 1 / 0\n" for hook in ("priorcodec_weights", "priorcodec_adapters")
)


def test_a_plugin_can_provide_weights_and_adapters_and_one_that_raises_stops_no_other(site):
    install(site, {"hooks": HOOKS, "zbad": BAD_HOOKS})
    registry = open_registry()
    assert not records(registry)["zbad"].error
    assert registry.weights(registry.spec("other")).suffix == ".py"
    assert "mine" in [a.name for a in registry.adapters(registry.spec("sd15"))]
    assert "ZeroDivisionError" in records(registry)["zbad"].error


def test_a_listing_finds_weights_by_a_plugins_own_hook(site):
    """A hook that takes only `spec` is called for listings too."""
    install(site, {"hooks": HOOKS})
    registry = open_registry()
    assert registry.local_weights(registry.spec("other")).suffix == ".py"
    assert registry.local_weights(registry.spec("toy")) is not None


DOWNLOADS = GOOD + textwrap.dedent("""
    from pathlib import Path

    @hookimpl
    def priorcodec_weights(spec, download):
        if spec.name == "other" and not download:
            return None
        return Path(__file__) if spec.name == "other" else None
""")


def test_a_listing_downloads_nothing(site):
    install(site, {"hooks": DOWNLOADS})
    registry = open_registry()
    spec = registry.spec("other")
    assert registry.local_weights(spec) is None
    assert registry.weights(spec).suffix == ".py"


def test_weights_that_are_not_there_are_named(site):
    install(
        site,
        {"hooks": DOWNLOADS.replace("Path(__file__)", "'/nowhere/weights'").replace("and not download", "and False")},
    )
    registry = open_registry()
    for find in (registry.weights, registry.local_weights):
        with pytest.raises(
            WeightsError, match="^/nowhere/weights, which a plugin gives as the weights, does not exist$"
        ):
            find(registry.spec("other"))


@pytest.mark.parametrize(
    "wrong", ["name='x', location=5", "name='a\\nb', location='/a.safetensors'", "name='', location='/a'"]
)
def test_an_adapter_source_that_says_nothing_stops_no_other(site, wrong):
    install(
        site,
        {
            "hooks": HOOKS.replace('name="mine", location="/a.safetensors"', wrong),
            "zfine": GOOD.replace('"other"', '"further"'),
        },
    )
    registry = open_registry()
    assert [source.name for source in registry.adapters(registry.spec("sd15"))] == []
    assert "AdapterError: adapter" in records(registry)["hooks"].error
    assert [source.name for source in registry.adapters(registry.spec("toy"))] == ["default"]


def test_what_a_plugin_imports_is_not_a_misspelled_hook(site):
    """A module, a class or a value whose name begins like a hook."""
    (site / "priorcodec_flux.py").write_text("x = 1\n")
    install(site, {"flux": "import priorcodec_flux\n\nclass priorcodec_thing: pass\n\npriorcodec_size = 3\n" + GOOD})
    assert records(open_registry())["flux"].error == ""


def test_a_hook_wrapper_is_refused(site):
    code = "from priorcodec import hookimpl\n\n@hookimpl(wrapper=True)\ndef priorcodec_weights(spec):\n    return (yield)\n"
    install(site, {"wrapping": code})
    assert "priorcodec_weights is a hook wrapper" in records(open_registry())["wrapping"].error


def test_a_source_that_is_no_hub_id_stops_no_listing(site, monkeypatch, tmp_path):
    """With the standard layout and a commit, as a spec for a model on the Hub has them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    sources = ["computed when built", "/models/flux", "flux", "a/b/c", "a--b/c", "-a/b", "a/b..c", "a/" + "b" * 97]
    specs = ", ".join(
        f"BackboneSpec(**(vars(spec('b{i}')) | dict(source={source!r}, denoiser_subfolder='unet', hub_revision='1' * 40)))"
        for i, source in enumerate(sources)
    )
    install(site, {"flux": SPEC + f"\n@hookimpl\ndef priorcodec_backbones():\n    return [{specs}]\n"})
    registry = open_registry()
    assert records(registry)["flux"].error == ""
    for i, source in enumerate(sources):
        spec = registry.spec(f"b{i}")
        assert registry.local_weights(spec) is None
        with pytest.raises(PriorCodecError, match=r"give --weights PATH, or backbone.weights=PATH to train") as caught:
            registry.weights(spec)
        assert source in str(caught.value)


def test_the_command_line_names_all_six_and_strict_ends_it(tmp_path):
    install(tmp_path, BROKEN | {"good": GOOD})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    def cli(*words, **more):
        command = [sys.executable, "-m", "priorcodec.cli", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment | more)

    listed = cli("plugins")
    assert listed.returncode == 0
    for name, (problem, words) in REASONS.items():
        assert any(line.startswith(name) and problem in line and words in line for line in listed.stdout.splitlines())
    assert "other" in cli("backbones").stdout
    assert "b_import" not in cli("plugins", PRIORCODEC_LOAD_PLUGINS="").stdout
    strict = cli("backbones", PRIORCODEC_STRICT_PLUGINS="1")
    assert strict.returncode == 2
    assert len(strict.stderr.strip().splitlines()) == 1
    assert "6 plugins failed" in strict.stderr


def test_a_backbone_without_weights_ends_in_one_line(site):
    install(site, {"good": GOOD})
    registry = open_registry()
    with pytest.raises(PriorCodecError, match=r"--weights PATH.*MIT"):
        registry.weights(registry.spec("other"))


def test_listing_backbones_imports_no_heavy_library():
    code = """
import sys
from priorcodec.registry import open_registry
registry = open_registry()
assert "sdxl" in registry.specs()
heavy = {"torch", "diffusers", "peft", "transformers", "numpy", "huggingface_hub", "compressai"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PRIORCODEC_LOAD_PLUGINS": ""})


def test_a_kind_of_prediction_may_be_given_as_text():
    spec = dataclasses.replace(open_registry().spec("toy"), prediction="flow", image_inputs=("preview",))
    assert spec.prediction is Prediction.FLOW and spec.image_inputs == (ImageInput.PREVIEW,)
    with pytest.raises(BackboneError, match="prediction is 'drift', wanted noise"):
        dataclasses.replace(spec, prediction="drift")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more_token_dims": (8,), "token_dim": 0}, "more_token_dims is stated without token_dim"),
        ({"image_inputs": ("sketch",)}, "image_inputs has 'sketch', wanted preview, thumbnail, latent"),
        ({"autoencoder_subfolder": "/vae"}, "autoencoder_subfolder '/vae' is not a folder inside a repository"),
        ({"scheduler_subfolder": "../x"}, "is not a folder inside a repository"),
        ({"pixel_bytes": 0}, "pixel_bytes is 0, wanted above 0"),
        ({"size": -8}, "size is -8, wanted above 0"),
        ({"pooled_dim": -1}, "pooled_dim is -1, wanted 0 or more"),
        (
            {"latent": LatentSpace(channels=4, stride=12, scale=1.0, mean=(0.0,) * 4, std=(1.0,) * 4)},
            "latent.stride 12 is not a power of 2",
        ),
        ({"lora": (LoraRule(pattern="conv[", modules=1, rank=4),)}, "LoRA pattern 'conv\\[' does not compile"),
    ],
)
def test_what_a_spec_cannot_ask_for_is_one_line(change, words):
    with pytest.raises(BackboneError, match=words) as caught:
        dataclasses.replace(open_registry().spec("toy"), **change)
    assert "\n" not in str(caught.value)
