"""Tokens in place of text: the learned base, the part read from the file; predicted moments."""

from dataclasses import replace

import pytest
import torch

from priorcodec import ImageInput
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.bridge import MomentsHead
from priorcodec.adapters.config import AdapterConfig
from priorcodec.adapters.tokens import TokenMapper
from priorcodec.backbones.conditions import make_condition, tensors


def mapper(pooled=5, **settings):
    torch.manual_seed(0)
    return TokenMapper(6, 8, 3, 4, pooled, **{"mapped": True, **settings})


Y, Q = torch.randn(2, 6, 9, 12), torch.tensor([0.0, 7.0])


@pytest.mark.parametrize("mapped", [True, False])
def test_a_fresh_mapper_answers_with_its_base(mapped):
    m = mapper(mapped=mapped)
    tokens, _, pooled = m(Y, Q)
    assert torch.equal(tokens, m.base.expand(2, 3, 4)) and torch.equal(pooled, torch.zeros(2, 5))
    assert mapper(pooled=0)(Y, Q)[1:] == ((), None)


def test_a_trained_one_reads_features_and_quality_whatever_their_size():
    m = mapper()
    for layer in (m.out, m.pooled_out):
        torch.nn.init.normal_(layer.weight)
    tokens, _, pooled = m(Y, Q)
    assert not torch.equal(tokens[0], tokens[1]) and not torch.equal(pooled[0], pooled[1])
    assert not torch.equal(m(Y, Q.flip(0))[0], tokens)
    assert m(Y[..., :1, :1], Q)[0].shape == (2, 3, 4)


def test_fresh_moments_are_those_of_the_bridged_latent_and_do_not_train_it():
    z, features = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(2, 8, 6, 6, requires_grad=True)
    head = MomentsHead(8, 4)
    mean, std = head(z, features)
    assert torch.allclose(mean, z.mean((2, 3))) and torch.allclose(std, z.std((2, 3), correction=0))
    (mean + std).sum().backward()
    assert z.grad is None and features.grad is None and head.linear.weight.grad.any()


def test_several_sequences_none_and_a_pooled_vector_alone():
    many = TokenMapper(6, 8, 3, 4, 5, (7, 2), mapped=True)
    for layer in (many.out, *many.more_out):
        torch.nn.init.normal_(layer.weight)
    tokens, more, pooled = many(Y, Q)
    assert (
        tokens.shape == (2, 3, 4) and [part.shape for part in more] == [(2, 3, 7), (2, 3, 2)] and pooled.shape == (2, 5)
    )
    assert not torch.equal(more[1][0], more[1][1])
    tokens, more, pooled = TokenMapper(6, 8, 3, 0, 5, mapped=True)(Y, Q)
    assert tokens is None and more == () and pooled.shape == (2, 5)
    nothing = TokenMapper(6, 8, 3, 0, 0, mapped=True)
    assert nothing(Y, Q) == (None, (), None) and not list(nothing.parameters())


def test_an_adapter_gives_what_the_spec_asks_for_and_nothing_else(specs, features):
    toy, config = specs["toy"], AdapterConfig(width=8, depth=1, stem_width=8, stem_depth=1, fusion=8)
    for wanted in ({}, {"image_inputs": tuple(ImageInput), "feature_dim": 5, "pooled_dim": 3, "token_dim": 0}):
        spec = replace(toy, **wanted)
        adapter = Adapter(spec, config, m=6, levels=8)
        y_hat, quality, preview = features
        z_hat, hidden = adapter.bridge(*features)
        condition = adapter.condition(y_hat, quality, preview, z_hat, hidden)
        shapes = {name: value.shape[1:] for name, value in tensors(condition).items()}
        blank = make_condition(spec, z_hat, tokens=config.tokens)
        assert shapes == {name: value.shape[1:] for name, value in tensors(blank).items()}
    assert condition.preview is preview and condition.latent is z_hat
    assert torch.allclose(condition.thumbnail, torch.nn.functional.avg_pool2d(preview, 8))
