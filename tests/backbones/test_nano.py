"""Our own small backbones: stated sizes and rules are correct, z is the image bit for bit, any grid size works."""

import re
from pathlib import Path

import pytest
import torch

import priorcodec
from priorcodec import Condition
from priorcodec.adapters import rules
from priorcodec.backbones.builtin import _pixel_diffusion, nano_dit, nano_pixel
from priorcodec.backbones.builtin._nano_dit import Patches, Transformer
from priorcodec.backbones.builtin._nano_layers import linear_betas_squared
from priorcodec.backbones.conditions import make_condition
from priorcodec.backbones.diffusion import to_sample
from priorcodec.core.errors import WeightsError

PACKAGE = Path(priorcodec.__file__).parent
SPECS = [nano_pixel.SPEC, nano_dit.SPEC]
SIZES = [("full", "meta"), ("tiny", "cpu")]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)


def build(spec, size):
    if size == "tiny":
        return spec.build_tiny()
    with torch.device("meta"):
        return spec.build(None, dtype=torch.float32)


def test_the_default_comes_first_and_the_transformer_is_the_smaller_one():
    assert list(priorcodec.list_backbones())[:2] == ["nano_pixel", "nano_dit"]
    assert nano_dit.SPEC.parameters < nano_pixel.SPEC.parameters <= 11_000_000


def test_both_share_one_latent_space_and_predict_different_things():
    one, other = SPECS
    assert one.latent == other.latent and one.latent.pixels
    assert one.prediction is not other.prediction and one.token_dim == other.token_dim


@each_spec
def test_parameters_are_as_stated(spec):
    assert sum(p.numel() for p in build(spec, "full").module.parameters()) == spec.parameters


@each_spec
@pytest.mark.parametrize(("size", "device"), SIZES)
def test_rules_match_exactly(spec, size, device):
    modules = dict(build(spec, size).module.named_modules())
    for rule in (spec if size == "full" else rules.tiny_spec(spec)).lora:
        hits = [path for path in modules if re.fullmatch(rule.pattern, path)]
        assert len(hits) == rule.modules > 0, rule.pattern


@each_spec
@pytest.mark.parametrize(("size", "device"), SIZES)
def test_fusion_sites_have_the_stated_channels_and_stride(spec, size, device):
    backbone, seen, spec = build(spec, size), {}, spec if size == "full" else rules.tiny_spec(spec)

    def watch(path):
        return lambda module, args, output: seen.update({path: output[0] if isinstance(output, tuple) else output})

    for site in spec.fusion:
        backbone.module.get_submodule(site.module).register_forward_hook(watch(site.module))
    x_t = torch.zeros(1, spec.latent.channels, 16, 24, device=device)
    t = torch.full((1,), 500.0, device=device)
    with torch.no_grad(), torch.device(device):
        assert backbone.predict(x_t, t, make_condition(spec, x_t)).shape == x_t.shape
    for site in spec.fusion:
        h, w = 16 // site.stride, 24 // site.stride
        want = (1, site.channels, h, w) if seen[site.module].ndim == 4 else (1, h * w, site.channels)
        assert tuple(seen[site.module].shape) == want, site.module


@each_spec
def test_pixels_and_latents_invert_each_other_bit_for_bit(spec):
    backbone, seeded = spec.build_tiny(), torch.Generator().manual_seed(0)
    x, z = torch.rand(2, 3, 40, 24, generator=seeded) * 2 - 1, torch.randn(2, 192, 5, 3, generator=seeded)
    assert torch.equal(backbone.to_pixels(backbone.to_latents(x)), x)
    assert torch.equal(backbone.to_latents(backbone.to_pixels(z)), z)


@each_spec
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 3), (6, 4)])
def test_odd_latents_keep_their_size(spec, size):
    x_t = torch.randn(1, 192, *size, generator=torch.Generator().manual_seed(0))
    out = spec.build_tiny().predict(x_t, torch.tensor([10.0]), make_condition(spec, x_t))
    assert out.shape == x_t.shape and out.isfinite().all()


def test_an_odd_grid_is_the_even_one_with_its_edge_repeated():
    backbone, seeded = nano_pixel.SPEC.build_tiny(), torch.Generator().manual_seed(0)
    x_t, words = (
        torch.randn(1, 192, 5, 7, generator=seeded),
        (torch.tensor([200.0]), Condition(tokens=torch.zeros(1, 2, 256))),
    )
    padded = torch.nn.functional.pad(x_t, (0, 1, 0, 1), mode="replicate")
    assert torch.equal(backbone.predict(x_t, *words), backbone.predict(padded, *words)[..., :5, :7])


@each_spec
def test_it_works_in_half_precision_and_answers_in_the_latents_own(spec):
    backbone = build_half(spec)
    x_t = torch.randn(1, 192, 4, 4, generator=torch.Generator().manual_seed(0))
    out = backbone.predict(x_t, torch.tensor([300.0]), make_condition(spec, x_t))
    assert out.dtype is torch.float32 and out.isfinite().all()


def build_half(spec):
    backbone = spec.build_tiny()
    backbone.module.to(torch.bfloat16)
    return backbone


@each_spec
@torch.no_grad()
def test_the_shipped_weights_remove_noise(spec):
    """A third of the noise's energy is gone, tokens empty; fresh weights add to it."""
    backbone, seeded = spec.build(PACKAGE / spec.source, dtype=torch.float32), torch.Generator().manual_seed(0)
    rough = torch.randn(1, 3, 8, 8, generator=seeded)
    x = torch.nn.functional.interpolate(rough, size=(64, 64), mode="bicubic").tanh()
    z, t = backbone.to_latents(x), torch.tensor([300.0])
    alpha, noise = backbone.alpha_bar(t), torch.randn(z.shape, generator=seeded)
    x_t = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
    out = to_sample(backbone.predict(x_t, t, make_condition(spec, x_t, tokens=16)), x_t, alpha, spec.prediction)
    assert (out - z).square().mean() < 0.67 * (x_t / alpha.sqrt() - z).square().mean()


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
        sample_size=32, in_channels=c["channels"], out_channels=c["channels"], patch_size=2, num_layers=c["layers"],
        num_attention_heads=c["heads"], attention_head_dim=c["width"] // c["heads"], cross_attention_dim=c["width"],
        caption_channels=c["token_dim"], use_additional_conditions=False,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    x_t, t, tokens = torch.randn(2, 192, 32, 32), torch.tensor([3.5, 700]), torch.randn(2, 3, 256)
    with torch.no_grad():
        want = theirs(x_t, tokens, timestep=t, return_dict=False)[0]
        torch.testing.assert_close(ours(x_t, t, tokens), want)


def test_the_noise_schedule_is_that_of_diffusers():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    first, last = _pixel_diffusion.SCHEDULE
    want = DDPMScheduler(beta_start=first, beta_end=last, beta_schedule="scaled_linear").alphas_cumprod
    assert torch.equal(linear_betas_squared(first, last), want)


def test_loading_uses_no_random_numbers_of_the_process():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for spec in SPECS:
        spec.build(PACKAGE / spec.source, dtype=torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


@each_spec
def test_weights_of_the_other_one_are_refused_in_one_line(spec):
    other = SPECS[1 - SPECS.index(spec)]
    with pytest.raises(WeightsError, match=rf"^{spec.name}: .*{other.name}\.safetensors holds other tensors") as caught:
        spec.build(PACKAGE / other.source, dtype=torch.float32)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="is a folder, wanted"):
        spec.build(PACKAGE, dtype=torch.float32)
