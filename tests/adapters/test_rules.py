"""LoRA rules: exact counts, full matches, no module twice."""

from dataclasses import replace

import pytest
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from priorcodec import BackboneError, FusionSite, LoraRule
from priorcodec.adapters import rules
from priorcodec.registry import open_registry


def tree():
    module = nn.Module()
    module.a = nn.ModuleDict({"to_q": nn.Linear(2, 2), "proj": nn.Conv2d(2, 2, 1), "norm": nn.LayerNorm(2)})
    module.b = nn.ModuleDict({"to_q": nn.Linear(2, 2)})
    return module


def rule(pattern, modules, rank=16):
    return LoraRule(pattern=pattern, modules=modules, rank=rank)


def test_every_match_with_its_rank():
    found = rules.match([rule(r".*\.to_q", 2, rank=4), rule(r"a\.proj", 1, rank=8)], tree())
    assert found == {"a.to_q": 4, "b.to_q": 4, "a.proj": 8}


def test_counts_and_widths_of_the_tiny_model_are_worked_out():
    spec = open_registry().spec("sdxl")
    tiny = rules.tiny_spec(spec)
    module = spec.build_tiny().module
    assert [rule.modules for rule in tiny.lora] == [len(rules.matches(rule, module)) for rule in spec.lora]
    assert all(0 < a.channels < b.channels for a, b in zip(tiny.fusion, spec.fusion, strict=True))
    assert len(rules.match(tiny.lora, module)) == sum(rule.modules for rule in tiny.lora)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lora": (LoraRule(pattern="nope", modules=1),)}, "'nope' matches no module of the tiny toy"),
        ({"fusion": (FusionSite(module="nope", channels=16, stride=1),)}, "toy has no module nope"),
    ],
)
def test_a_rule_or_site_without_a_module_is_refused(change, words):
    with pytest.raises(BackboneError, match=words):
        rules.tiny_spec(replace(open_registry().spec("toy"), **change))


def test_layers_whose_lora_would_change_when_it_is_merged_are_refused():
    module = nn.ModuleDict(
        {"groups": nn.Conv2d(4, 4, 3, groups=2), "normed": weight_norm(nn.Linear(2, 2)), "one": nn.Linear(2, 2)}
    )
    module["other"] = module["one"]
    for name, words in (("groups", "a grouped convolution"), ("normed", "is computed"), ("one", "under several names")):
        with pytest.raises(BackboneError, match=f"'{name}' matches {name}, .*{words}"):
            rules.match([rule(name, 1)], module)


@pytest.mark.parametrize("pattern, modules", [(r".*\.to_q", 3), (r"to_q", 2), (r"nope", 1), (r".*\.to", 2)])
def test_another_number_of_matches_is_refused(pattern, modules):
    with pytest.raises(BackboneError, match=f"wanted {modules}"):
        rules.match([rule(pattern, modules)], tree())


def test_a_module_that_can_carry_no_lora_is_refused():
    with pytest.raises(BackboneError, match="LayerNorm: wanted Linear or Conv2d"):
        rules.match([rule(r"a\.norm", 1)], tree())


def test_two_rules_for_one_module_are_refused():
    with pytest.raises(BackboneError, match="an earlier rule has"):
        rules.match([rule(r".*\.to_q", 2), rule(r"a\..*q", 1)], tree())


def test_the_digest_follows_pattern_count_and_rank():
    one = rule("a", 1)
    others = [replace(one, pattern="b"), replace(one, modules=2), replace(one, rank=8)]
    assert len({rules.digest([r]) for r in [one, *others]}) == 4
