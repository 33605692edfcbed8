"""Encoder 2's networks: shapes, a modulation that starts as the identity, gradients that reach every part that is used."""

from __future__ import annotations

from functools import partial

import torch

from priorcodec.core.transforms import EncoderConfig, ImageEncoder
from recipes.encoder2.transforms import ImageEncoder2

SMALL = EncoderConfig(n8=8, n16=12, m=12, m_h=4, n=8, depth8=1, depth16=1, groups=(2, 4, 6))


def test_coding_and_both_decoders():
    torch.manual_seed(0)
    model = ImageEncoder2(SMALL)
    x, quality = torch.rand(2, 3, 64, 128) * 2 - 1, torch.tensor([0.5, 11.0])
    coded = model.code_latent(model.analyze(x), quality)
    assert coded.y_hat.shape == (2, 12, 4, 8) and coded.symbols.shape == coded.index.shape == coded.y_hat.shape
    assert coded.y_bits.shape == coded.z_bits.shape == (2,)
    out = [decoder(coded.y_hat, quality) for decoder in (model.g_s, model.g_p)]
    assert all(o.shape == x.shape for o in out)
    (coded.y_bits.sum() + coded.z_bits.sum() + sum(o.pow(2).sum() for o in out)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_modulation_follows_the_quality():
    model = ImageEncoder2(SMALL)
    y_hat = torch.randn(1, 12, 2, 2)
    low, high = torch.tensor([0.0]), torch.tensor([11.0])
    assert torch.equal(model.g_s(y_hat, low), model.g_s(y_hat, high))
    with torch.no_grad():
        model.g_s.modulation8.table[11] += 0.5
    assert not torch.allclose(model.g_s(y_hat, low), model.g_s(y_hat, high))


def test_a_checkpoint_is_one_of_the_package():
    """The same names, shapes and answers: what is trained here is released as `core.transforms.ImageEncoder`."""
    torch.manual_seed(0)
    here = ImageEncoder2(SMALL)
    package = ImageEncoder(EncoderConfig(**vars(SMALL)))
    for parameter in here.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    package.load_state_dict(here.state_dict())
    assert [name for name, _ in package.named_parameters()] == [name for name, _ in here.named_parameters()]
    x, quality = torch.rand(2, 3, 64, 128) * 2 - 1, torch.tensor([0.5, 11.0])
    half = partial(torch.full_like, fill_value=0.5)
    with torch.no_grad():
        wanted, got = here.code_latent(here.analyze(x), quality, uniform=half), package.code(x, quality, uniform=half)
        for name in ("y_hat", "y_bits", "z_bits"):
            assert torch.equal(getattr(got, name), getattr(wanted, name))
        for decoder in ("g_s", "g_p"):
            assert torch.equal(
                getattr(package, decoder)(got.y_hat, quality), getattr(here, decoder)(got.y_hat, quality)
            )
    assert EncoderConfig() == EncoderConfig(**{k: v for k, v in vars(EncoderConfig()).items() if k != "certain"})
