"""Our own small backbones: stated sizes and rules hold; the transformer's positions do not depend on the image's size."""

import re
from pathlib import Path

import pytest
import torch
from priorcodec.backbones.builtin._nano_unet import UNet

import priorcodec
from priorcodec.adapters import rules
from priorcodec.backbones.builtin import _nano, nano_dit, nano_unet
from priorcodec.backbones.builtin._nano_dit import Patches, Transformer
from priorcodec.backbones.builtin._nano_layers import linear_betas_squared

PACKAGE = Path(priorcodec.__file__).parent
SPECS = [nano_unet.SPEC, nano_dit.SPEC]
SIZES = [("full", "meta"), ("tiny", "cpu")]


def build(spec, size):
    if size == "tiny":
        return spec.build_tiny()
    with torch.device("meta"):
        return spec.build(None, dtype=torch.float32)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_parameters_are_as_stated(spec):
    assert sum(p.numel() for p in build(spec, "full").module.parameters()) == spec.parameters


def test_the_transformer_is_the_smaller_one():
    assert nano_dit.SPEC.parameters <= 4_200_000 < nano_unet.SPEC.parameters


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize(("size", "device"), SIZES)
def test_rules_match_exactly(spec, size, device):
    modules = dict(build(spec, size).module.named_modules())
    for rule in (spec if size == "full" else rules.tiny_spec(spec)).lora:
        hits = [path for path in modules if re.fullmatch(rule.pattern, path)]
        assert len(hits) == rule.modules > 0, rule.pattern


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize(("size", "device"), SIZES)
def test_fusion_sites_have_the_stated_channels_and_stride(spec, size, device):
    backbone, seen, spec = build(spec, size), {}, spec if size == "full" else rules.tiny_spec(spec)

    def watch(path):
        return lambda module, args, output: seen.update({path: output[0] if isinstance(output, tuple) else output})

    for site in spec.fusion:
        backbone.module.get_submodule(site.module).register_forward_hook(watch(site.module))
    x_t = torch.zeros(1, spec.latent.channels, 16, 24, device=device)
    tokens, t = torch.zeros(1, 4, spec.token_dim, device=device), torch.full((1,), 500.0, device=device)
    with torch.no_grad(), torch.device(device):
        assert backbone.predict(x_t, t, tokens, None).shape == x_t.shape
    for site in spec.fusion:
        h, w = 16 // site.stride, 24 // site.stride
        want = (1, site.channels, h, w) if seen[site.module].ndim == 4 else (1, h * w, site.channels)
        assert tuple(seen[site.module].shape) == want, site.module


@pytest.fixture
def patches():
    torch.manual_seed(0)
    return Patches(8, 16, 2)


def test_a_patch_has_the_same_place_in_a_larger_image(patches):
    """PixArt's own embedding fails this: it squeezes its grid into the larger image."""
    z = torch.randn(1, 8, 12, 20)
    large = patches(z).view(6, 10, 16)
    small = patches(z[..., :8, :8]).view(4, 4, 16)
    torch.testing.assert_close(large[:4, :4], small)


def test_the_origin_moves_all_places(patches):
    z = torch.randn(1, 8, 12, 20)
    whole = patches(z).view(6, 10, 16)
    patches.origin = (2, 5)  # row, column
    torch.testing.assert_close(patches(z[..., 4:, 10:]).view(4, 5, 16), whole[2:, 5:])


def test_at_the_training_size_the_transformer_is_that_of_diffusers():
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    c = nano_dit.TINY
    ours = Transformer(**c).eval()
    theirs = PixArtTransformer2DModel(
        sample_size=32, in_channels=8, out_channels=8, patch_size=2, num_layers=c["layers"],
        num_attention_heads=c["heads"], attention_head_dim=c["width"] // c["heads"], cross_attention_dim=c["width"],
        caption_channels=c["token_dim"], use_additional_conditions=False,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    x_t, t, tokens = torch.randn(2, 8, 32, 32), torch.tensor([3.5, 700]), torch.randn(2, 3, 64)
    with torch.no_grad():
        want = theirs(x_t, tokens, timestep=t, return_dict=False)[0]
        torch.testing.assert_close(ours(x_t, t, tokens), want)


@pytest.mark.parametrize("size", [(16, 16), (7, 9), (5, 16)])
def test_the_unet_is_that_of_diffusers(size):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    c = nano_unet.TINY
    ours = UNet(**c).eval()
    theirs = UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=8, block_out_channels=c["widths"], layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=c["context"], attention_head_dim=c["heads"], norm_num_groups=c["groups"],
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    x_t, t, tokens = torch.randn(2, 8, *size), torch.tensor([3.5, 700]), torch.randn(2, 3, 64)
    with torch.no_grad():
        want = theirs(x_t, t, encoder_hidden_states=tokens, return_dict=False)[0]
        torch.testing.assert_close(ours(x_t, t, tokens), want)


def test_the_noise_schedule_is_that_of_diffusers():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    first, last = _nano.SCHEDULE
    want = DDPMScheduler(beta_start=first, beta_end=last, beta_schedule="scaled_linear").alphas_cumprod
    assert torch.equal(linear_betas_squared(first, last), want)


def test_loading_uses_no_random_numbers_of_the_process():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for spec in SPECS:
        spec.build(PACKAGE / spec.source, dtype=torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_odd_latents_keep_their_size():
    backbone = nano_dit.SPEC.build_tiny()
    x_t = torch.randn(1, 8, 5, 7)
    assert backbone.predict(x_t, torch.tensor([10.0]), torch.zeros(1, 2, 64), None).shape == x_t.shape
