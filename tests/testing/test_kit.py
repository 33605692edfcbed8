"""The conformance kit passes a good backbone and fails, check by check, one that is bad in exactly that way."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from priorcodec import BackboneError, BackboneSpec, ConfigError, FusionSite, LatentSpace, LoraRule, Prediction
from priorcodec.testing import Status, Subject, check_backbone, parametrize_backbones, report
from priorcodec.testing._run import all_checks, run


class Denoiser(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(4, width, 3, padding=1)
        self.text, self.vector = nn.Linear(6, width), nn.Linear(5, width)
        self.conv2 = nn.Conv2d(width, 4, 3, padding=1)
        self.spare = nn.Conv2d(4, 4, 1)

    def forward(self, x, t, tokens, pooled):
        shift = self.text(tokens).mean(1) + self.vector(pooled) + t[:, None] / 1000
        return self.conv2(torch.tanh(self.conv1(x) + shift[..., None, None])) + self.spare(x)


class Good(nn.Module):
    """Predicts the clean sample: a blur, and a little of what the network says."""

    def __init__(self, width=8):
        super().__init__()
        self.module = Denoiser(width)
        self.requires_grad_(False).eval()

    def alpha_bar(self, t):
        return torch.cos(t / 1000 * math.pi / 2) ** 2

    def predict(self, x_t, t, tokens, pooled):
        x = x_t / self.alpha_bar(t).sqrt().clamp_min(0.1)[:, None, None, None]
        dtype = next(self.module.parameters()).dtype
        net = self.module(x.to(dtype), t.to(dtype), tokens.to(dtype), pooled.to(dtype))
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) + 0.01 * net.to(x_t.dtype)

    def to_latents(self, x):
        z = F.avg_pool2d(x, 8)
        return torch.cat([z, z.mean(1, keepdim=True)], 1)

    def to_pixels(self, z):
        return F.interpolate(z[:, :3], scale_factor=8, mode="bilinear")


def make(kind=Good, **changes):
    """The good spec, built from `kind`."""

    def build(weights, *, dtype):
        return kind(16).to(dtype)

    def build_tiny():
        torch.manual_seed(0)
        return kind()

    build.__module__ = "json"  # light, and importable by itself
    count = sum(p.numel() for p in Denoiser(16).parameters())
    fields = {
        "name": "good", "summary": "s", "license": "MIT", "source": "here",
        "latent": LatentSpace(channels=4, stride=8, scale=1.0, mean=(0.0,) * 4, std=(1.0,) * 4),
        "prediction": Prediction.SAMPLE, "size": 64, "parameters": count, "token_dim": 6, "pooled_dim": 5,
        "lora": (LoraRule(pattern=r"conv[12]|text|vector", modules=4, tiny_modules=4, rank=2),),
        "fusion": (FusionSite(module="conv1", channels=16, tiny_channels=8, stride=1),),
        "build": build, "build_tiny": build_tiny,
    }  # fmt: skip
    return BackboneSpec(**fields | changes)


def bad(method, function):
    """A class like Good but for one method; `function` gets the good one as its first argument."""
    good = getattr(Good, method)
    return type("Bad", (Good,), {method: lambda self, *args, **kwargs: function(good, self, *args, **kwargs)})


def after_init(function):
    """A class like Good that does one more thing when it is built."""

    class Bad(Good):
        def __init__(self, width=8):
            super().__init__(width)
            function(self)

    return Bad


def predict(function):
    return make(bad("predict", function))


def random_weights(self):
    torch.seed()
    nn.init.normal_(self.module.conv1.weight)


def remember(self):
    self.module.register_buffer("calls", torch.zeros(()))


class Counting(after_init(remember)):
    def predict(self, *args):
        self.module.calls += 1
        return super().predict(*args)


class Variance(Good):
    def predict(self, *args):
        return super().predict(*args).repeat(1, 2, 1, 1)


def touch_the_codec(self):
    from priorcodec.core import codec

    codec.QUALITY_STEPS = 16


def heavy_build():
    spec = make()
    spec.build.__module__ = "torch"
    return spec


def pixels_that_peek(good, self, z):
    return good(self, self.to_latents(good(self, z)))


LORA = LoraRule(pattern=r"conv[12]|text|vector", modules=4, tiny_modules=4)
BAD = {
    "texts": lambda: make(license=" "),
    "numbers": lambda: make(latent=replace(make().latent, stride=12)),
    "rules_stated": lambda: make(lora=(replace(LORA, pattern="conv["),)),
    "light_import": heavy_build,
    "builds": lambda: make(after_init(random_weights)),
    "frozen": lambda: make(after_init(lambda self: self.module.conv1.requires_grad_(True))),
    "predict_shape": lambda: make(Variance),
    "odd_sizes": lambda: predict(lambda good, self, x, *rest: good(self, x, *rest)[..., : x.shape[-1] // 2 * 2]),
    "deterministic": lambda: predict(lambda good, self, x, *rest: good(self, x, *rest) + torch.randn(()) * 1e-3),
    "batch_invariance": lambda: predict(lambda good, self, x, *rest: good(self, x, *rest) - x.mean()),
    "conditions_matter": lambda: predict(lambda good, self, x, t, tokens, p: good(self, x, t, 0 * tokens, p)),
    "gradients": lambda: predict(lambda good, self, x, *rest: good(self, x.detach(), *rest)),
    "alpha_bar": lambda: make(bad("alpha_bar", lambda good, self, t: 1 - good(self, t))),
    "pixels": lambda: make(bad("to_pixels", lambda good, self, z: good(self, z)[..., :-1])),
    "lora_rules": lambda: make(lora=(replace(LORA, tiny_modules=3),)),
    "fusion_sites": lambda: make(fusion=(FusionSite(module="conv1", channels=16, tiny_channels=9, stride=1),)),
    "full_architecture": lambda: make(parameters=7),
    "fresh_adapter": lambda: predict(
        lambda good, self, *x: good(self, *x) + (0 if isinstance(self.module.conv1, nn.Conv2d) else 1e-6)
    ),
    "only_adapter_trains": lambda: make(after_init(lambda self: self.module.conv1.requires_grad_(True))),
    "adapter_learns": lambda: predict(lambda good, self, x, t, tokens, p: good(self, x, t, tokens.detach() * 0, p)),
    "eject_restores": lambda: make(Counting),
    "adapter_round_trip": lambda: make(after_init(random_weights)),
    "wrong_partner_refused": lambda: make(),
    "decodes_from_bytes": lambda: make(bad("to_pixels", pixels_that_peek)),
    "file_ignores_backbone": lambda: make(after_init(touch_the_codec)),
    "real_size": lambda: make(parameters=7),
    "autoencoder": lambda: make(bad("to_pixels", lambda good, self, z: 3 * good(self, z))),
    "prediction_type": lambda: make(prediction=Prediction.NOISE),
    "memory": lambda: make(bad("to_pixels", lambda good, self, z: good(self, z) / 0)),
}
CHECKS = {check.name: check for check in all_checks()}


@pytest.mark.parametrize("name", CHECKS)
def test_the_good_backbone_passes(name):
    result = run(CHECKS[name], Subject(spec=make()), None)
    assert result.status is Status.PASSED, result.message


def test_there_is_a_bad_backbone_for_every_check():
    assert set(BAD) == set(CHECKS)


@pytest.mark.parametrize("name", BAD)
def test_the_bad_backbone_fails_with_a_sentence(name, monkeypatch):
    monkeypatch.setattr("priorcodec.core.codec.QUALITY_STEPS", 32)  # one of them changes it
    if name == "wrong_partner_refused":  # ours to get right, not the backbone's
        monkeypatch.setattr("priorcodec.adapters.file.check", lambda *args, **kwargs: None)
    result = run(CHECKS[name], Subject(spec=BAD[name]()), None)
    assert result.status is Status.FAILED
    assert result.message
    assert "\n" not in result.message


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
    text, good = report("bad", check_backbone(make(license=" "), tier=0))
    assert not good
    assert "texts" in text
    assert "license is empty" in text
    assert text.splitlines()[-1] == "bad: 3 passed, 1 failed"
    data, good = report("good", check_backbone(make(), tier=0), as_json=True)
    assert good
    assert json.loads(data)["checks"][0] == json.loads(data)["checks"][0] | {"check": "texts", "status": "passed"}


@parametrize_backbones(make(license=" "), tier=0, expected_failures={"texts": "shown to be marked"})
def test_parametrize(check):
    check()


OURS = ("sd15", "sd21", "sd21.base", "sdxl", "pixart", "pixart.sigma", "nano_unet", "nano_dit", "toy")
FAST = ("sd15", "sdxl", "pixart", "nano_unet", "nano_dit", "toy")


@parametrize_backbones(*FAST)
def test_ours(check):
    check()


@pytest.mark.slow
@parametrize_backbones(*(set(OURS) - set(FAST)))
def test_ours_that_differ_little(check):
    check()
