"""The residual refiner: nothing at first, then a correction that depends on preview and quality, of limited reach."""

from dataclasses import replace

import pytest
import torch

from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.adapters.refiner import ResidualRefiner
from priorcodec.registry import open_registry

SMALL = AdapterConfig(width=8, depth=1, stem_width=8, stem_depth=1, refiner=8, refiner_depth=2, noise_channels=2)


@pytest.fixture
def refiner():
    torch.manual_seed(0)
    made = ResidualRefiner(8, 2, noise_channels=2, levels=4)
    torch.nn.init.normal_(made.tail.weight)
    torch.nn.init.normal_(made.noise.weight)
    return made.requires_grad_(False)


@pytest.mark.parametrize("name", ["nano_pixel", "sd15", "toy"])
@torch.no_grad()
def test_the_adapter_corrects_the_backbones_image(name):
    spec = open_registry().spec(name)
    torch.manual_seed(0)
    adapter, backbone = Adapter(spec, SMALL, m=6, levels=4, tiny=True), spec.build_tiny()
    adapter.inject(backbone)
    quality, preview = torch.tensor([1.0]), torch.rand(1, 3, 64, 64)
    z = adapter(torch.randn(1, 6, 4, 4), quality, preview).z
    plain = backbone.to_pixels(z).float()
    assert torch.equal(adapter.to_pixels(z, quality, preview), plain)  # fresh
    torch.nn.init.normal_(adapter.refiner.tail.weight)
    shown = adapter.to_pixels(z, quality, preview)
    assert shown.shape == plain.shape and not torch.allclose(shown, plain)
    assert torch.equal(backbone.to_pixels(z).float(), plain)
    off = Adapter(spec, replace(SMALL, refiner=0), m=6, levels=4, tiny=True)
    assert off.refiner is None and not any(key.startswith("refiner.") for key in off.state_dict())


def test_preview_and_quality_matter(refiner):
    x, preview, quality = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48), torch.tensor([1.0])
    shown = refiner(x, preview, quality)
    assert not torch.allclose(refiner(x, preview.flip(-1), quality), shown)
    assert not torch.allclose(refiner(x, preview, quality + 1), shown)


def test_texture_is_of_the_noise_and_old_adapters_have_none(refiner):
    x, preview, quality = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48), torch.tensor([1.0])
    smooth, noise = refiner(x, preview, quality), torch.randn(1, 2, 8, 12)
    assert not torch.allclose(refiner(x, preview, quality, noise), smooth)
    assert not torch.allclose(refiner(x, preview, quality, noise.flip(-1)), refiner(x, preview, quality, noise))
    plain = ResidualRefiner(8, 2, noise_channels=0, levels=4)
    assert plain.noise is None
    plain.load_state_dict(
        {name: value for name, value in refiner.state_dict().items() if not name.startswith("noise.")}
    )
    assert torch.equal(plain(x, preview, quality, noise[:, :0]), smooth)


def test_it_looks_24_pixels_far(refiner):
    """Tiles overlap by more than that."""
    x, preview, quality = torch.rand(1, 3, 128, 64), torch.rand(1, 3, 128, 64), torch.tensor([1.0])
    window = (..., slice(0, 96), slice(None))
    assert torch.allclose(
        refiner(x[window], preview[window], quality)[..., :72, :], refiner(x, preview, quality)[..., :72, :], atol=1e-5
    )
    assert not torch.allclose(
        refiner(x[window], preview[window], quality)[..., 72:, :],
        refiner(x, preview, quality)[..., 72:96, :],
        atol=1e-5,
    )
