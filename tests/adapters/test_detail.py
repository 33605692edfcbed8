"""Detail past the latent: nothing at first, learned through `to_pixels`, gone after eject."""

import pytest
import torch

from priorcodec import BackboneError, DetailSite
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.checkpoint import AdapterConfig
from priorcodec.adapters.detail import Detail
from priorcodec.registry import open_registry

SMALL = AdapterConfig(width=8, depth=1, fine_width=8, fine_depth=1, detail=8)


@pytest.fixture(params=["nano_unet", "sd15"])
def attached(request):
    spec = open_registry().spec(request.param)
    torch.manual_seed(0)
    adapter = Adapter(spec, SMALL, m=6, levels=4, tiny=True)
    backbone = spec.build_tiny()
    adapter.inject(backbone)
    return adapter, backbone


@torch.no_grad()
def test_the_decoder_sees_detail_only_through_the_adapter(attached):
    adapter, backbone = attached
    out = adapter(torch.randn(1, 6, 4, 4), torch.tensor([1.0]), torch.rand(1, 3, 64, 64))
    assert out.detail.shape == (1, 8, 8, 8)
    plain = backbone.to_pixels(out.z)
    assert torch.equal(adapter.to_pixels(out.z, out.detail), plain)  # fresh
    torch.nn.init.normal_(adapter.detail.out.weight)
    assert not torch.equal(adapter.to_pixels(out.z, out.detail), plain)
    assert torch.equal(adapter.to_pixels(out.z, None), plain)
    assert torch.equal(backbone.to_pixels(out.z), plain)
    adapter.eject()
    assert not any(module._forward_hooks for module in backbone.decoder.modules())
    assert torch.equal(backbone.to_pixels(out.z), plain)


@torch.no_grad()
def test_a_window_of_latent_and_detail_decodes_alone(attached):
    adapter, _ = attached
    torch.nn.init.normal_(adapter.detail.out.weight)
    out = adapter(torch.randn(1, 6, 4, 4), torch.tensor([1.0]), torch.rand(1, 3, 64, 64))
    window = (..., slice(2, 6), slice(0, 5))
    assert adapter.to_pixels(out.z[window], out.detail[window]).shape == (1, 3, 32, 40)


def test_a_hidden_state_off_the_latent_grid_is_refused():
    with pytest.raises(BackboneError, match=r"answers on \(8, 8\) for a latent of \(4, 4\)"):
        Detail(8, 4, 8)(torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 4, 4))


def test_a_detail_site_that_is_no_module_is_refused_before_anything_is_attached():
    from dataclasses import replace

    spec = replace(open_registry().spec("nano_unet"), detail=DetailSite(module="nowhere", channels=4, tiny_channels=4))
    backbone = spec.build_tiny()
    with pytest.raises(BackboneError, match="mend the fusion or detail site"):
        Adapter(spec, SMALL, m=6, levels=4, tiny=True).inject(backbone)
    assert not any(module._forward_hooks for module in backbone.module.modules())


def test_no_detail_where_it_is_off_or_there_is_no_site():
    from dataclasses import replace

    off = replace(SMALL, detail=0)
    assert Adapter(open_registry().spec("nano_unet"), off, m=6, levels=4, tiny=True).detail is None
    assert Adapter(open_registry().spec("toy"), SMALL, m=6, levels=4, tiny=True).detail is None
