"""The real architectures on torch's meta device: parameter counts and rules, without a byte of weights."""

import functools
import re

import pytest
import torch

from priorcodec.adapters import rules
from priorcodec.backbones.conditions import make_condition
from priorcodec.registry import open_registry

REAL = ("sd15", "sd21", "sd21.base", "sdxl", "pixart", "pixart.sigma")
MILLIONS = {  # the published sizes
    "sd15": 859.52,
    "sd21": 865.91,
    "sd21.base": 865.91,
    "sdxl": 2567.46,
    "pixart": 611.35,
    "pixart.sigma": 610.86,
}
SPECS = open_registry().specs()


@functools.cache
def full(name):
    with torch.device("meta"):
        return SPECS[name].build(None, dtype=torch.float32)


@functools.cache
def tiny(name):
    return SPECS[name].build_tiny()


def stated(name, size):
    """The full model's counts and widths are stated, the tiny one's worked out."""
    return SPECS[name] if size == "full" else rules.tiny_spec(SPECS[name])


@pytest.mark.parametrize("name", REAL)
def test_parameter_count_is_the_published_one(name):
    count = sum(p.numel() for p in full(name).module.parameters())
    assert count == SPECS[name].parameters
    assert round(count / 1e6, 2) == MILLIONS[name]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("size", ["full", "tiny"])
def test_lora_rules_match_exactly(name, size):
    modules = dict((full if size == "full" else tiny)(name).module.named_modules())
    seen = set()
    for rule in stated(name, size).lora:
        hits = {path for path in modules if re.fullmatch(rule.pattern, path)}
        assert len(hits) == rule.modules > 0, rule.pattern
        assert all(isinstance(modules[path], torch.nn.Linear | torch.nn.Conv2d) for path in hits)
        assert not hits & seen
        seen |= hits


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("size", ["full", "tiny"])
def test_fusion_sites_have_the_stated_channels_and_stride(name, size):
    spec, device = stated(name, size), "meta" if size == "full" else "cpu"
    backbone = (full if size == "full" else tiny)(name)
    seen = {}

    def watch(path):
        def hook(module, args, output):
            seen[path] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [backbone.module.get_submodule(s.module).register_forward_hook(watch(s.module)) for s in spec.fusion]
    x_t = torch.zeros(1, spec.latent.channels, 16, 24, device=device)
    with torch.no_grad(), torch.device(device):
        out = backbone.predict(x_t, torch.full((1,), 500.0, device=device), make_condition(spec, x_t, tokens=4))
    for handle in handles:
        handle.remove()
    assert out.shape == x_t.shape
    assert len({s.module for s in spec.fusion}) == len(spec.fusion) == len(seen)
    for site in spec.fusion:
        h, w = 16 // site.stride, 24 // site.stride
        want = (1, site.channels, h, w) if seen[site.module].ndim == 4 else (1, h * w, site.channels)
        assert tuple(seen[site.module].shape) == want, site.module


@pytest.mark.parametrize("name", REAL)
def test_tiny_model_has_every_module_of_the_rules_and_the_same_classes(name):
    assert type(tiny(name).module) is type(full(name).module)
    assert type(tiny(name).vae) is type(full(name).vae)
