"""Tiny backbones and the inputs of an adapter, shared by the tests of this folder."""

from functools import partial

import pytest
import torch

from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.backbones.conditions import make_condition
from priorcodec.registry import open_registry

TINY = AdapterConfig(width=8, depth=1, stem_width=8, stem_depth=1, fusion=8, window=4)
M, LEVELS, ENCODER = 6, 8, 0xC0FFEE


@pytest.fixture(scope="session")
def specs():
    return open_registry().specs()


@pytest.fixture
def make(specs):
    """make("sd15", lora_rank=4) -> (backbone, adapter), both tiny, not attached."""

    def build(name, **settings):
        spec = specs[name]
        config = AdapterConfig(**{**vars(TINY), **settings})
        return spec.build_tiny(), Adapter(spec, config, m=M, levels=LEVELS, tiny=True)

    return build


@pytest.fixture
def features():
    """y_hat (2, M, 4, 8), qualities (2,) and previews (2, 3, 64, 128)."""
    g = torch.Generator().manual_seed(0)
    y_hat, preview = torch.randn(2, M, 4, 8, generator=g), torch.rand(2, 3, 64, 128, generator=g) * 2 - 1
    return y_hat, torch.tensor([1.5, 6.0]), preview


@pytest.fixture
def train_a_little():
    """Moves every trainable weight of an attached adapter away from its fresh value, the same way each time."""

    def shake(adapter, seed=1):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.trainable():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)

    return shake


@pytest.fixture
def call():
    """The denoiser's answer to a fixed input: call(backbone, spec) -> tensor."""

    @torch.no_grad()
    def predict(backbone, spec):
        g = torch.Generator().manual_seed(2)
        x_t = torch.randn(2, spec.latent.channels, 8, 16, generator=g)
        condition = make_condition(spec, x_t, tokens=3, values=partial(torch.randn, generator=g))
        return backbone.predict(x_t, torch.tensor([300.0, 100.0]), condition)

    return predict
