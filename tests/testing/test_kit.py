"""The conformance kit passes a good backbone and fails, check by check, one that is bad in exactly that way."""

import json
import os
import random
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from priorcodec import BackboneError, ConfigError, FusionSite, LatentSpace, Prediction
from priorcodec.testing import Status, Subject, check_backbone, format_results, parametrize_backbones
from priorcodec.testing import _side_effects as side_effects
from priorcodec.testing._run import ON_THE_REAL_MODEL, all_checks, run_check
from tests.testing.good import LATENT, LORA, Good, after_init, bad, make


def predict(function):
    return make(bad("predict", function))


def random_weights(self):
    torch.seed()
    nn.init.normal_(self.module.conv1.weight)


def remember(self):
    self.module.register_buffer("calls", torch.zeros(()))


def limited(good, self, x, t, c):
    """As with a table of 64 positions a side."""
    if max(x.shape[-2:]) > 64:
        raise ValueError(f"latent {tuple(x.shape[-2:])} is larger than the table of positions (64)")
    return good(self, x, t, c)


class Counting(after_init(remember)):
    def predict(self, *args):
        self.module.calls += 1
        return super().predict(*args)


class Variance(Good):
    def predict(self, *args):
        return super().predict(*args).repeat(1, 2, 1, 1)


class Pixels(Good):
    """The latent is the image itself, times 2."""

    def predict(self, x_t, t, condition):
        return super().predict(F.pad(x_t, (0, 0, 0, 0, 0, 1)), t, condition)[:, :3]

    def to_latents(self, x):
        return 2 * x

    def to_pixels(self, z):
        return z / 2


PIXELS = LatentSpace(channels=3, stride=1, scale=2.0, mean=(0.0,) * 3, std=(1.0,) * 3, pixels=True)


def touch_the_codec(self):
    from priorcodec.core import codec

    codec.QUALITY_STEPS = 32


def build_in(module):
    """The good spec, its `build` in another module."""
    spec = make()
    spec.build.__module__ = module
    return spec


def pixels_that_peek(good, self, z):
    return good(self, self.to_latents(good(self, z)))


BAD = {
    "texts": lambda: make(license=" "),
    "rules_stated": lambda: make(lora=(replace(LORA, rank=0),)),
    "source": lambda: make(hub_revision="0" * 40, source="computed when built"),
    "light_import": lambda: build_in("torch"),
    "quiet_import": lambda: build_in("this"),  # prints a poem
    "builds": lambda: make(after_init(random_weights)),
    "side_effects": lambda: make(after_init(lambda self: torch.set_default_dtype(torch.float64))),
    "frozen": lambda: make(after_init(lambda self: self.module.conv1.requires_grad_(True))),
    "predict_shape": lambda: make(Variance),
    "tile_sizes": lambda: predict(limited),
    "odd_sizes": lambda: predict(lambda good, self, x, *rest: good(self, x, *rest)[..., : x.shape[-1] // 2 * 2]),
    "deterministic": lambda: predict(lambda good, self, x, *rest: good(self, x, *rest) + torch.randn(()) * 1e-3),
    "batch_invariance": lambda: predict(lambda good, self, x, *rest: good(self, x, *rest) - x.mean()),
    "conditions_matter": lambda: predict(lambda good, self, x, t, c: good(self, x, t, replace(c, tokens=0 * c.tokens))),
    "gradients": lambda: predict(lambda good, self, x, *rest: good(self, x.detach(), *rest)),
    "alpha_bar": lambda: make(bad("alpha_bar", lambda good, self, t: 1 - good(self, t))),
    "pixels": lambda: make(bad("to_pixels", lambda good, self, z: good(self, z)[..., :-1])),
    "pixel_space": lambda: make(type("Unscaled", (Pixels,), {"to_latents": lambda self, x: x}), latent=PIXELS),
    "lora_rules": lambda: make(lora=(LORA, replace(LORA, pattern="conv1", modules=1))),
    "fusion_sites": lambda: make(fusion=(FusionSite(module="conv1", channels=16, stride=2),)),
    "full_architecture": lambda: make(build=lambda weights, *, dtype: Good(16)),
    "counts": lambda: make(parameters=7),
    "fresh_adapter": lambda: predict(
        lambda good, self, *x: good(self, *x) + (0 if isinstance(self.module.conv1, nn.Conv2d) else 1e-6)
    ),
    "only_adapter_trains": lambda: make(after_init(lambda self: self.module.conv1.requires_grad_(True))),
    "adapter_learns": lambda: predict(lambda good, self, x, t, c: good(self, x, t, replace(c, tokens=0 * c.tokens))),
    "eject_restores": lambda: make(Counting),
    "adapter_round_trip": lambda: make(after_init(random_weights)),
    "wrong_partner_refused": lambda: make(),
    "decodes_from_bytes": lambda: make(bad("to_pixels", pixels_that_peek)),
    "file_ignores_backbone": lambda: make(after_init(touch_the_codec)),
    "dtypes": lambda: predict(lambda good, self, x, *rest: good(self, x, *rest).to(self.module.spare.weight.dtype)),
    "moves": lambda: make(after_init(lambda self: setattr(self, "alphas", torch.zeros(3)))),
    "real_size": lambda: make(build=lambda weights, *, dtype: Good(16 if weights is None else 17).to(dtype)),
    "weights_loaded": lambda: make(build=lambda weights, *, dtype: Good(16).to(dtype)),
    "latent_space": lambda: make(latent=replace(LATENT, std=(9.0,) * 4)),
    "noise_level": lambda: make(bad("alpha_bar", lambda good, self, t: good(self, t) ** 0.5)),
    "autoencoder": lambda: make(bad("to_pixels", lambda good, self, z: 3 * good(self, z))),
    "prediction_type": lambda: make(prediction=Prediction.NOISE),
    "memory": lambda: make(bad("to_pixels", lambda good, self, z: good(self, z) / 0)),
}
for name in ON_THE_REAL_MODEL:  # good when tiny, bad when real
    BAD[f"real_{name}"] = lambda name=name: replace(BAD[name](), build_tiny=make().build_tiny)
BAD["real_side_effects"] = lambda: make(
    bad("to_pixels", lambda good, self, z: (self.module.train(), good(self, z))[1]), Good
)
CHECKS = {check.name: check for check in all_checks()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "good.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_file(Good(16).state_dict(), path)
    return path


@pytest.mark.parametrize("name", CHECKS)
def test_the_good_backbone_passes(name, weights):
    good = make(Pixels, latent=PIXELS) if "pixel_space" in name else make()
    result = run_check(CHECKS[name], Subject(spec=good, weights=weights))
    assert result.status is Status.PASSED, result.message


def test_there_is_a_bad_backbone_for_every_check():
    assert set(BAD) == set(CHECKS)


@pytest.mark.parametrize("name", BAD)
def test_the_bad_backbone_fails_with_a_sentence(name, weights, monkeypatch):
    monkeypatch.setattr("priorcodec.core.codec.QUALITY_STEPS", 16)  # one of them changes it
    if name == "wrong_partner_refused":  # ours to get right, not the backbone's
        monkeypatch.setattr("priorcodec.adapters.file.check", lambda *args, **kwargs: None)
    result = run_check(CHECKS[name], Subject(spec=BAD[name](), weights=weights))
    assert result.status is Status.FAILED
    assert result.message
    assert "\n" not in result.message


SIDE_EFFECTS = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "grad mode": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "deterministic flag": lambda: torch.use_deterministic_algorithms(True),
    "number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "float32 matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "mkldnn switch": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "cudnn switches": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch's random state": lambda: torch.manual_seed(7),
    "Python's random state": lambda: random.seed(7),
    "numpy's random state": lambda: np.random.seed(7),  # noqa: NPY002
    "prints 'building' to standard output": lambda: print("building"),
}
METHODS = {
    "changes numpy's random state": lambda self: np.random.seed(7),  # noqa: NPY002
    "prints 'hello": lambda self: print("hello"),
    "changes the mode of module": lambda self: self.module.train(),
    "changes the hooks of module": lambda self: self.module.register_forward_hook(lambda *_: None),
    "changes the weight or buffer module.spare.bias": lambda self: self.module.spare.bias.add_(1),
    "changes torch's attention switches": lambda self: torch.backends.cuda.enable_flash_sdp(False),
    "changes environment variables": lambda self: os.environ.update(OF_A_PLUGIN="1"),
    "changes Python's warning filters": lambda self: warnings.simplefilter("ignore"),
}


@pytest.mark.parametrize("words", SIDE_EFFECTS)
def test_every_side_effect_of_building_is_named_and_undone(words):
    spec = make(type("Bad", (Good,), {"after": lambda self: SIDE_EFFECTS[words]()}))
    before = side_effects._state()
    result = run_check(CHECKS["side_effects"], Subject(spec=spec))
    assert result.status is Status.FAILED
    assert "build_tiny() " in result.message and words in result.message
    assert {k: v for k, (v, _) in side_effects._state().items()} == {k: v for k, (v, _) in before.items()}


@pytest.mark.parametrize("words", METHODS)
@pytest.mark.parametrize("method", ["alpha_bar", "predict", "to_latents", "to_pixels"])
def test_every_side_effect_of_a_call_is_named(words, method):
    def function(good, self, *args):
        METHODS[words](self)
        return good(self, *args)

    result = run_check(CHECKS["side_effects"], Subject(spec=make(bad(method, function))))
    assert result.status is Status.FAILED and f"{method}() {words}" in result.message


def failed(spec):
    return {result.check: result.message for result in check_backbone(spec) if result.status is Status.FAILED}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"parameters": 7}, "(the spec says 7)"),
        ({"lora": (replace(LORA, modules=3),)}, "modules=4 (the spec says 3)"),
        ({"fusion": (FusionSite(module="conv1", channels=9, stride=1),)}, "channels=16 (the spec says 9)"),
    ],
)
def test_one_wrong_count_fails_one_check(change, words):
    found = failed(make(**change))
    assert set(found) == {"counts"} and words in found["counts"]


def test_all_wrong_counts_are_reported_together():
    spec = make(
        parameters=7,
        lora=(replace(LORA, modules=3),),
        fusion=(FusionSite(module="conv1", channels=9, stride=1),),
    )
    (message,) = failed(spec).values()
    assert all(f"the spec says {stated}" in message for stated in (7, 3, 9))


def explode():
    raise ZeroDivisionError("no\nmodel")


@pytest.mark.parametrize(
    "change, check",
    [({"build_tiny": explode}, "builds"), ({"build": lambda weights, *, dtype: explode()}, "full_architecture")],
)
def test_a_build_that_raises_is_reported_once_with_file_and_line(change, check, monkeypatch):
    monkeypatch.setattr("priorcodec.testing._plain._probe", lambda module: {"heavy": [], "printed": ""})
    results = check_backbone(make(**change))
    (result,) = [r for r in results if r.status is Status.FAILED]
    line = explode.__code__.co_firstlineno + 1
    assert result.check == check
    assert result.message.endswith(f"raised ZeroDivisionError: no model (test_kit.py, line {line})")
    assert "Traceback" in result.traceback and "explode" in result.traceback
    assert any(r.status is Status.SKIPPED and r.message.endswith("failed, as reported above") for r in results)
    text, _ = format_results("bad", results, tracebacks=True)
    assert "Traceback" in text and "Traceback" not in format_results("bad", results)[0]


def test_what_is_raised_below_the_plugin_is_traced_to_the_plugins_own_line():
    spec = predict(lambda good, self, x, *rest: F.conv2d(x, torch.zeros(1, 2, 3, 3)))
    result = run_check(CHECKS["predict_shape"], Subject(spec=spec))
    assert re.search(r"RuntimeError: .* \(test_kit\.py, line \d+\)$", result.message)


def test_a_plugin_that_ends_the_program_fails_its_check():
    def leave(good, self, x, *rest):
        raise SystemExit(3)

    result = run_check(CHECKS["predict_shape"], Subject(spec=predict(leave)))
    assert result.status is Status.FAILED and "SystemExit" in result.message


def test_an_import_that_hangs_or_fails_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "breaks.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("priorcodec.testing._plain.IMPORT_SECONDS", 0.5)
    for module, words in (("hangs", "no end after 0.5 s"), ("breaks", "ZeroDivisionError: division by zero")):
        if module == "breaks":
            monkeypatch.setattr("priorcodec.testing._plain.IMPORT_SECONDS", 60.0)
        found = [r for r in check_backbone(build_in(module), tier=0) if r.status is not Status.PASSED]
        assert [r.check for r in found] == ["light_import", "quiet_import"]
        assert words in found[0].message and found[1].status is Status.SKIPPED


def test_expected_failures_are_the_callers_and_strict():
    spec = make(license=" ")
    (texts, *rest) = check_backbone(spec, tier=0, expected_failures={"texts": "license is being asked for"})
    assert texts.status is Status.EXPECTED
    assert "license is being asked for" in texts.message
    assert {r.status for r in rest} == {Status.PASSED}
    (texts, *_) = check_backbone(make(), tier=0, expected_failures={"texts": "old excuse"})
    assert texts.status is Status.FAILED
    assert "old excuse" in texts.message
    with pytest.raises(ConfigError, match="no checks: nonsense"):
        check_backbone(spec, tier=0, expected_failures={"nonsense": "x"})
    with pytest.raises(BackboneError, match="no backbone 'nonsense'"):
        check_backbone("nonsense", tier=0)


def test_the_report_as_text_and_as_json():
    text, good = format_results("bad", check_backbone(make(license=" "), tier=0))
    assert not good
    assert "texts" in text
    assert "license is empty" in text
    assert text.splitlines()[-1] == "bad: 4 passed, 1 failed"
    data, good = format_results("good", check_backbone(make(), tier=0), as_json=True)
    assert good
    assert json.loads(data)["checks"][0] == json.loads(data)["checks"][0] | {"check": "texts", "status": "passed"}


@parametrize_backbones(make(license=" "), tier=0, expected_failures={"texts": "shown to be marked"})
def test_parametrize(check):
    check()


OURS = ("sd15", "sd21", "sd21.base", "sdxl", "pixart", "pixart.sigma", "nano_pixel", "nano_dit", "toy")
FAST = ("sd15", "sdxl", "pixart", "nano_pixel", "nano_dit", "toy")


@parametrize_backbones(*FAST)
def test_ours(check):
    check()


@pytest.mark.slow
@parametrize_backbones(*(set(OURS) - set(FAST)))
def test_ours_that_differ_little(check):
    check()
