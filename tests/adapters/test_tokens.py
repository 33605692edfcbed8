"""Tokens in place of text: the learned base, the part read from the file, the start from a prompt; predicted moments."""

import pytest
import torch

from priorcodec import AdapterError
from priorcodec.adapters.bridge import MomentsHead
from priorcodec.adapters.tokens import TokenMapper


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


def test_start_from_a_prompt():
    m, prompt, vector = mapper(), torch.randn(7, 4), torch.randn(5)
    m.start_from(prompt, vector)
    tokens, _, pooled = m(Y, Q)
    assert torch.equal(tokens[0], prompt[:3]) and torch.equal(pooled[1], vector)
    for wrong in [(torch.randn(2, 4), vector), (torch.randn(3, 5), vector), (prompt, None), (prompt, torch.randn(4))]:
        with pytest.raises(AdapterError, match="wanted|wants"):
            m.start_from(*wrong)


def test_fresh_moments_are_those_of_the_bridged_latent_and_do_not_train_it():
    z, features = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(2, 8, 6, 6, requires_grad=True)
    head = MomentsHead(8, 4)
    mean, std = head(z, features)
    assert torch.allclose(mean, z.mean((2, 3))) and torch.allclose(std, z.std((2, 3), correction=0))
    (mean + std).sum().backward()
    assert z.grad is None and features.grad is None and head.linear.weight.grad.any()
