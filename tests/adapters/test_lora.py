"""LoRA in and out: exact inverses on every family, nothing left behind, injected or merged."""

import sys
import time

import pytest
import torch

from priorcodec import AdapterError, BackboneError
from priorcodec.adapters import lora, rules

BACKBONES = ("nano_pixel", "toy", "sd15", "sdxl", "pixart")


def portrait(module):
    """Everything an eject must give back: objects, flags, hooks, attributes, and every bit of the weights."""
    return (
        {path: id(child) for path, child in module.named_modules()},
        {name: (id(p), p.requires_grad) for name, p in module.named_parameters()},
        list(module.state_dict()),
        {path: child.training for path, child in module.named_modules()},
        {path: len(child._forward_hooks) + len(child._forward_pre_hooks) for path, child in module.named_modules()},
        {path: sorted(vars(child)) for path, child in module.named_modules()},
    )


def bits(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bits(module, before):
    after = module.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", BACKBONES)
def test_inject_changes_no_bit_and_eject_restores_everything(name, make, call, features, train_a_little):
    backbone, adapter = make(name)
    module, spec = backbone.module, adapter.spec
    before, weights, answer = portrait(module), bits(module), call(backbone, spec)
    adapter.inject(backbone)
    assert torch.equal(call(backbone, spec), answer), "a fresh adapter changes nothing"
    assert len(adapter.lora) == 2 * sum(rule.modules for rule in rules.tiny_spec(spec).lora)
    assert {n for n, p in module.named_parameters() if p.requires_grad} == set(adapter.lora)
    train_a_little(adapter)
    assert not torch.equal(call(backbone, spec), answer), "a trained one does"
    z = adapter(*features).z
    assert z.shape == (2, spec.latent.channels, 4 * 16 // spec.latent.stride, 8 * 16 // spec.latent.stride)
    adapter.eject()
    assert portrait(module) == before
    assert same_bits(module, weights)
    assert torch.equal(call(backbone, spec), answer)
    assert adapter.lora == {} and adapter.backbone is None


@pytest.mark.parametrize("rank", [None, 0])
def test_second_inject_fails_with_the_remedy(make, rank):
    backbone, adapter = make("toy", lora_rank=rank)
    _, other = make("toy", lora_rank=rank)
    adapter.inject(backbone)
    with pytest.raises(AdapterError, match="eject"):
        adapter.inject(backbone)
    with pytest.raises(AdapterError, match="eject that one first"):
        other.inject(backbone)
    adapter.eject()
    other.inject(backbone)


def test_a_strangers_lora_is_left_alone(make):
    backbone, adapter = make("toy")
    lora.inject(backbone.module, {"conv1": 2})
    before = portrait(backbone.module)
    with pytest.raises(AdapterError, match="carries an adapter already"):
        adapter.inject(backbone)
    assert portrait(backbone.module) == before


def test_what_needs_an_attached_adapter_says_so(make, features):
    _, adapter = make("toy")
    for action in (adapter.eject, lambda: adapter(*features)):
        with pytest.raises(AdapterError, match="not attached: inject it"):
            action()


@pytest.mark.parametrize("method", ["alpha_bar", "predict", "to_pixels"])
def test_an_exception_of_the_backbone_names_it_and_the_method(make, features, monkeypatch, method):
    backbone, adapter = make("toy")
    adapter.inject(backbone)

    def decode(error: Exception):
        def fail(*args):
            raise error

        monkeypatch.setattr(backbone, method, fail, raising=True)
        return adapter.to_pixels(adapter(*features).z, *features[1:])

    with pytest.raises(BackboneError, match=rf"^toy: {method}\(\) raised KeyError: 'up'$"):
        decode(KeyError("up"))
    for error in (FloatingPointError(), MemoryError(), RuntimeError("CUDA out of memory"), BackboneError("as it is")):
        with pytest.raises(type(error)) as raised:  # each has a meaning further up
            decode(error)
        assert raised.value is error


def test_ranks_by_rule_one_for_all_or_none(make):
    backbone, adapter = make("toy")
    adapter.inject(backbone)
    assert adapter.lora["conv1.lora_A.priorcodec.weight"].shape[0] == 4
    adapter.eject()
    for rank in (0, 2):
        backbone, adapter = make("toy", lora_rank=rank)
        adapter.inject(backbone)
        assert {p.shape[0] for n, p in adapter.lora.items() if "lora_A" in n} == ({2} if rank else set())


def test_scale_is_one_at_every_rank(make, features):
    """Alpha equals the rank, so that a rule's rank is a capacity and not a volume."""
    backbone, adapter = make("nano_pixel", lora_rank=3)
    adapter.inject(backbone)
    scales = {s for c in backbone.module.modules() for s in getattr(c, "scaling", {}).values()}
    assert scales == {1.0}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_mode": "replicate"},
        {"padding_mode": "circular"},
        {"dilation": 2},
        {"padding": "same"},
        {"stride": 2},
    ],
)
def test_what_is_decoded_is_what_was_trained(options):
    """peft's A knows neither padding mode nor dilation; merged into the weight it has them."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, **{"padding": 1, **options}), torch.nn.Tanh(), torch.nn.Conv2d(4, 2, 1)
    )
    x, ranks = torch.randn(2, 3, 8, 8), {"0": 2, "2": 2}
    before = module(x)
    parameters = lora.inject(module, ranks)
    for parameter in parameters.values():
        torch.nn.init.normal_(parameter)
    trained, values = module(x), {name: value.detach().clone() for name, value in parameters.items()}
    lora.eject(module)
    lora.merge(module, ranks, values)
    torch.testing.assert_close(module(x), trained)
    assert not torch.allclose(trained, before, atol=0.1)


def test_two_adapters_of_one_backbone_can_be_swapped(make, features, train_a_little):
    backbone, one = make("nano_pixel")
    _, two = make("nano_pixel")
    results = []
    for adapter, seed in ((one, 1), (two, 2), (one, 1)):
        torch.manual_seed(0)  # of lora_A
        adapter.inject(backbone)
        kept = {n: p.clone() for n, p in adapter.named_parameters()}
        train_a_little(adapter, seed)
        with torch.no_grad():
            results.append(adapter(*features).z)
            for n, p in adapter.named_parameters():
                p.copy_(kept[n])
        adapter.eject()
    assert torch.equal(results[0], results[2])


@pytest.fixture
def trained(make, train_a_little, call):
    """trained("toy") -> (backbone, adapter not attached, with LoRA values, the denoiser's answer with them)."""

    def build(name):
        backbone, adapter = make(name)
        adapter.inject(backbone)
        train_a_little(adapter)
        answer, values = call(backbone, adapter.spec), {n: p.detach().clone() for n, p in adapter.lora.items()}
        adapter.eject()
        adapter.lora_values = values
        return backbone, adapter, answer

    return build


@pytest.mark.parametrize("name", ["nano_pixel", "sd15", "pixart"])
def test_merge_keeps_the_function_and_eject_restores_every_bit(name, trained, call, monkeypatch):
    backbone, adapter, answer = trained(name)
    before, weights, plain = portrait(backbone.module), bits(backbone.module), call(backbone, adapter.spec)
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it fails
    adapter.merge(backbone)
    assert list(backbone.module.state_dict()) == list(weights) and not same_bits(backbone.module, weights)
    assert not any(p.requires_grad for p in backbone.module.parameters())
    torch.testing.assert_close(call(backbone, adapter.spec), answer, rtol=1e-3, atol=1e-4)
    with pytest.raises(AdapterError, match="eject"):
        adapter.merge(backbone)
    adapter.eject()
    assert portrait(backbone.module) == before and same_bits(backbone.module, weights)
    assert torch.equal(call(backbone, adapter.spec), plain)
    adapter.merge(backbone)  # the values are still there
    torch.testing.assert_close(call(backbone, adapter.spec), answer, rtol=1e-3, atol=1e-4)


def test_values_from_a_file_can_be_trained_on(trained, call):
    backbone, adapter, answer = trained("toy")
    adapter.inject(backbone)
    assert torch.equal(call(backbone, adapter.spec), answer)


def test_merged_without_keeping_the_weights_it_cannot_be_ejected(trained):
    backbone, adapter, _ = trained("toy")
    adapter.merge(backbone, keep=False)
    with pytest.raises(AdapterError, match="build the backbone again"):
        adapter.eject()


def test_values_that_do_not_fit_change_nothing(trained):
    backbone, adapter, _ = trained("toy")
    before, weights = portrait(backbone.module), bits(backbone.module)
    values = dict(adapter.lora_values)
    name = "conv2.lora_A.priorcodec.weight"
    for wrong in ({**values, name: values[name][:1]}, {k: v for k, v in values.items() if k != name}):
        adapter.lora_values = wrong
        with pytest.raises(AdapterError, match="wrong adapter"):
            adapter.merge(backbone)
        assert portrait(backbone.module) == before and same_bits(backbone.module, weights)
        with pytest.raises(AdapterError, match="wrong adapter"):
            adapter.inject(backbone)
        assert portrait(backbone.module) == before and same_bits(backbone.module, weights) and not adapter.lora
    adapter.lora_values = values
    adapter.inject(backbone)


@pytest.mark.parametrize("name", ["sdxl", "pixart", "sd15"])
def test_peft_gets_one_pattern_for_each_uncommon_rank(name, specs):
    """It tries every pattern on every module: with one for each of SDXL's 756 modules, injecting took minutes."""
    spec = specs[name]
    paths = [f"{i}.{j}" for i, rule in enumerate(spec.lora) for j in range(rule.modules)]
    config = lora.peft_config(dict.fromkeys(paths, 16))
    assert config.rank_pattern == config.alpha_pattern == {} and config.r == config.lora_alpha == 16
    config = lora.peft_config({path: 16 if path.startswith("0") else 8 for path in paths})
    assert len(config.rank_pattern) == len(config.alpha_pattern) == 1


def test_uncommon_ranks_reach_exactly_their_modules():
    module = torch.nn.ModuleDict({"a": torch.nn.ModuleDict({"b": torch.nn.Linear(8, 8)}), "b": torch.nn.Linear(8, 8)})
    made = lora.inject(module.add_module("c", torch.nn.Linear(8, 8)) or module, {"a.b": 4, "b": 2, "c": 4})
    assert {n.split(".lora_")[0]: len(p) for n, p in made.items() if "lora_A" in n} == {"a.b": 4, "b": 2, "c": 4}
    assert {s for c in module.modules() for s in getattr(c, "scaling", {}).values()} == {1.0}


@pytest.mark.slow
def test_injecting_at_full_size_takes_seconds(specs):
    for spec in specs.values():
        with torch.device("meta"):
            module = spec.build(None, dtype=torch.float32).module
        started = time.process_time()
        ranks = {path: rule.rank for rule in spec.lora for path in rules.match([rule], module)}
        lora.inject(module, ranks)
        assert time.process_time() - started < 15, spec.name  # 143 s once; 2.3 s of one core for sdxl now


def test_every_weight_learns_in_three_steps(make, features):
    """At the first step the zero half of each LoRA learns, at the second the other half."""
    backbone, adapter = make("nano_pixel")
    adapter.inject(backbone)
    frozen = {n: v.clone() for n, v in backbone.state_dict().items() if ".lora_" not in n}
    idle = set(range(len(adapter.trainable())))
    optimizer = torch.optim.SGD(adapter.trainable(), lr=0.1)
    target = torch.randn(2, 192, 8, 16, generator=torch.Generator().manual_seed(3))
    for _ in range(3):  # the bridge's zero layer hides its body for one more step
        optimizer.zero_grad()
        out = adapter(*features)
        z_hat, z, noise = out.z_hat, out.z, torch.randn(2, *adapter.noise_shape(64, 128))
        loss = (
            adapter.to_pixels(z, *features[1:], noise).square().mean()
            + (z - target).square().mean()
            + (z_hat - target).square().mean()
        )
        (loss + (out.mean - 1).square().mean() + (out.std - 1).square().mean()).backward()
        idle -= {i for i, p in enumerate(adapter.trainable()) if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert not idle
    assert all(torch.equal(backbone.state_dict()[n], v) for n, v in frozen.items())
