"""LoRA rules: exact counts, full matches, no module twice."""

from dataclasses import replace

import pytest
from torch import nn

from priorcodec import BackboneError, LoraRule
from priorcodec.adapters import rules


def tree():
    module = nn.Module()
    module.a = nn.ModuleDict({"to_q": nn.Linear(2, 2), "proj": nn.Conv2d(2, 2, 1), "norm": nn.LayerNorm(2)})
    module.b = nn.ModuleDict({"to_q": nn.Linear(2, 2)})
    return module


def rule(pattern, modules, rank=16):
    return LoraRule(pattern=pattern, modules=modules, tiny_modules=1, rank=rank)


def test_every_match_with_its_rank():
    found = rules.match([rule(r".*\.to_q", 2, rank=4), rule(r"a\.proj", 1, rank=8)], tree())
    assert found == {"a.to_q": 4, "b.to_q": 4, "a.proj": 8}


def test_the_tiny_count_is_the_one_that_counts_for_a_tiny_model():
    assert rules.match([rule(r"a\.proj", 28)], tree(), tiny=True) == {"a.proj": 16}


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


def test_the_digest_follows_pattern_count_and_rank_but_not_the_tiny_count():
    one = rule("a", 1)
    assert rules.digest([one]) == rules.digest([replace(one, tiny_modules=9)])
    others = [replace(one, pattern="b"), replace(one, modules=2), replace(one, rank=8)]
    assert len({rules.digest([r]) for r in [one, *others]}) == 4
