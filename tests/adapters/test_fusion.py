"""Attentive fusion: nothing when fresh, windows that invert, U-Nets and transformers alike, one place that knows outputs."""

import pytest
import torch

from priorcodec import BackboneError, FusionSite
from priorcodec.adapters.fusion import Fusion, Pyramid, add_to_hidden_state
from priorcodec.backbones.conditions import make_condition

SITE = FusionSite(module="block", channels=12, stride=2)


def opened(**settings):
    torch.manual_seed(0)
    fusion = Fusion(12, 8, **{"window": 4, "shift": 0, **settings})
    torch.nn.init.normal_(fusion.gate.weight)
    return fusion


def test_a_fresh_one_adds_exactly_nothing_and_an_opened_one_something():
    hidden, features, t = torch.randn(2, 6, 8, 12), torch.randn(2, 8, 6, 8), torch.tensor([10.0, 500.0])
    assert not Fusion(12, 8, window=4, shift=0)(hidden, features, t).any()
    assert opened()(hidden, features, t).any()


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 8), (5, 7), (9, 3)])
def test_windows_together_are_the_image_again(shift, h, w):
    fusion, x = opened(shift=shift), torch.randn(2, h, w, 8)
    assert torch.equal(fusion._merge_windows(fusion._windows(x), 2, h, w), x)


def test_time_and_features_count_and_only_inside_the_window():
    fusion, hidden, features = opened(), torch.randn(1, 8, 8, 12), torch.randn(1, 8, 8, 8)
    early, late = torch.tensor([50.0]), torch.tensor([700.0])
    before = fusion(hidden, features, early)
    assert not torch.equal(before, fusion(hidden, features, late))
    features[..., 0, 0] += 1
    changed = (fusion(hidden, features, early) != before).any(-1)[0]
    assert changed[:4, :4].all() and not changed[4:].any() and not changed[:, 4:].any()


def test_attention_starts_close_to_its_own_position():
    bias = opened()._bias()
    assert torch.equal(bias.argmax(-1), torch.arange(16).expand(1, 16))


def test_pyramid_has_every_stride_and_rounds_up():
    levels = Pyramid(6, 8, [1, 4, 2, 2])(torch.randn(2, 6, 5, 7))
    assert {s: tuple(x.shape) for s, x in levels.items()} == {1: (2, 8, 5, 7), 2: (2, 8, 3, 4), 4: (2, 8, 2, 2)}


def test_add_to_hidden_state_knows_maps_tokens_and_down_blocks():
    one = torch.ones_like
    assert torch.equal(add_to_hidden_state(torch.zeros(1, 12, 3, 4), one, SITE, (6, 8)), torch.ones(1, 12, 3, 4))
    assert torch.equal(add_to_hidden_state(torch.zeros(1, 12, 12), one, SITE, (5, 8)), torch.ones(1, 12, 12))
    hidden, skips = add_to_hidden_state((torch.zeros(1, 12, 3, 4), ("skip",)), one, SITE, (6, 8))
    assert torch.equal(hidden, torch.ones(1, 12, 3, 4)) and skips == ("skip",)


@pytest.mark.parametrize(("shape", "reason"), [((1, 13, 12), "13 tokens"), ((1, 12), "2 dimensions")])
def test_add_to_hidden_state_refuses_what_is_no_hidden_state(shape, reason):
    with pytest.raises(BackboneError, match=reason):
        add_to_hidden_state(torch.zeros(shape), torch.ones_like, SITE, (6, 8))


@pytest.mark.parametrize("name", ["nano_pixel", "pixart", "sdxl"])
def test_every_site_is_heard_in_the_answer(name, make, features):
    backbone, adapter = make(name)
    adapter.inject(backbone)
    with torch.no_grad():
        z = adapter(*features).z
        for fusion in adapter.fusion:
            torch.nn.init.ones_(fusion.gate.bias)
            moved = adapter(*features).z
            assert not torch.equal(moved, z)
            torch.nn.init.zeros_(fusion.gate.bias)
        assert torch.equal(adapter(*features).z, z)


def test_a_call_of_the_denoiser_that_is_not_ours_knows_nothing_of_the_last_image(make, features):
    backbone, adapter = make("nano_pixel")
    adapter.inject(backbone)
    for fusion in adapter.fusion:
        torch.nn.init.ones_(fusion.gate.bias)
    x_t, t = torch.randn(1, adapter.spec.latent.channels, 8, 8), torch.tensor([100.0])
    condition = make_condition(adapter.spec, x_t)
    fresh = backbone.predict(x_t, t, condition)
    adapter(*features).z.sum().backward()
    assert torch.equal(backbone.predict(x_t, t, condition), fresh)  # of another batch size, with gradients on


def test_a_missing_site_is_named(make):
    from dataclasses import replace

    backbone, adapter = make("toy", fusion=8)
    adapter.sites = (replace(adapter.sites[0], module="conv9"),)
    with pytest.raises(BackboneError, match="conv9"):
        adapter.inject(backbone)
    adapter.sites = ()
    assert adapter.backbone is None and not adapter.lora
