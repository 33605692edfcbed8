"""Flux (Black Forest Labs 2024): packed 2x2 patches, double- and single-stream blocks, distilled guidance, flow prediction."""

from priorcodec import BackboneSpec, FusionSite, LatentSpace, LoraRule, Prediction

SCALE, SHIFT = 0.3611, 0.1159


def build(weights, *, dtype, heads=2):
    import torch
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    class Flux(torch.nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                self.module = FluxTransformer2DModel(
                    in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=8, num_attention_heads=heads,
                    joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
                )  # fmt: skip
                self.vae = AutoencoderKL(
                    latent_channels=4, block_out_channels=[8] * 4, norm_num_groups=4,
                    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                )  # fmt: skip
            torch.nn.Module.to(self.module, dtype)  # the one of diffusers warns
            self.requires_grad_(False).eval()

        def alpha_bar(self, t):
            s = t.float() / 1000
            return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)

        def predict(self, x_t, t, condition):
            (h, w), dtype = x_t.shape[-2:], self.module.dtype
            x = torch.nn.functional.pad(x_t, (0, w % 2, 0, h % 2), mode="replicate")
            rows, columns = (side // 2 for side in x.shape[-2:])
            packed = torch.nn.functional.pixel_unshuffle(x, 2).flatten(2).mT.to(dtype)
            grid = torch.cartesian_prod(*(torch.arange(n, device=x.device).float() for n in (rows, columns)))
            places = torch.cat([torch.zeros_like(grid[:, :1]), grid], 1)
            tokens, pooled = condition.tokens.to(dtype), condition.pooled.to(dtype)
            words, guidance = x.new_zeros(tokens.shape[1], 3), torch.full_like(t, 3.5)
            out = self.module(packed, tokens, pooled, (t / 1000).to(dtype), places, words, guidance=guidance).sample
            return torch.nn.functional.pixel_shuffle(out.mT.unflatten(2, (rows, columns)), 2)[..., :h, :w].to(x_t.dtype)

        def to_latents(self, x):
            return (self.vae.encode(x).latent_dist.mode() - SHIFT) * SCALE

        def to_pixels(self, z):
            return self.vae.decode(z / SCALE + SHIFT).sample

    return Flux()


SPEC = BackboneSpec(
    name="flux", summary="Flux", license="Apache-2.0", source="black-forest-labs/FLUX.1-schnell", hub_revision="0" * 40,
    denoiser_subfolder="transformer", parameters=34_000, token_dim=12, pooled_dim=10, prediction=Prediction.FLOW,
    latent=LatentSpace(channels=4, stride=8, scale=SCALE, shift=SHIFT, mean=(0.0,) * 4, std=(1.0,) * 4),
    lora=(LoraRule(pattern=r".*_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|ff\.net\.2)", modules=12),),
    fusion=(FusionSite(module="transformer_blocks.0.ff", channels=16, stride=2),),
    build=build, build_tiny=lambda: build(None, dtype=None, heads=1),
)  # fmt: skip
