"""HunyuanDiT (Li et al. 2024): two text encoders with tokens of two widths and fixed numbers, velocity prediction."""

from priorcodec import BackboneSpec, LatentSpace, LoraRule, Prediction


def build(weights, *, dtype, heads=2):
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel
    from diffusers.models.embeddings import get_2d_rotary_pos_embed
    from torch.nn.functional import pad

    class Hunyuan(torch.nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                self.module = HunyuanDiT2DModel(
                    in_channels=4, patch_size=2, num_layers=2, num_attention_heads=heads, attention_head_dim=8, sample_size=8,
                    hidden_size=8 * heads, cross_attention_dim=12, cross_attention_dim_t5=24, pooled_projection_dim=10,
                    text_len=16, text_len_t5=16, use_style_cond_and_image_meta_size=False,
                )  # fmt: skip
                blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
                self.vae = AutoencoderKL(**blocks, block_out_channels=[8] * 4, norm_num_groups=4)
            torch.nn.Module.to(self.module, dtype)  # the one of diffusers warns
            betas = {"beta_start": 0.00085, "beta_end": 0.018, "beta_schedule": "scaled_linear"}
            self.register_buffer("alphas", DDPMScheduler(**betas).alphas_cumprod)
            self.requires_grad_(False).eval()

        def alpha_bar(self, t):
            low = t.floor().long().clamp(0, 998)
            return torch.lerp(self.alphas[low], self.alphas[low + 1], t - low)

        def predict(self, x_t, t, condition):
            (h, w), dtype = x_t.shape[-2:], self.module.dtype
            x = pad(x_t, (0, w % 2, 0, h % 2), mode="replicate").to(dtype)
            missing = 16 - condition.tokens.shape[1]
            clip, t5 = (pad(n.to(dtype), (0, 0, 0, missing)) for n in (condition.tokens, *condition.more_tokens))
            mask = pad(clip.new_ones(len(clip), 16 - missing), (0, missing))
            grid = x.shape[-2] // 2, x.shape[-1] // 2
            places = get_2d_rotary_pos_embed(8, ((0, 0), grid), grid, output_type="pt", device=x.device)
            out = self.module(x, t.to(dtype), clip, mask, t5, mask, None, None, places, return_dict=False)[0]
            return out[:, :4, :h, :w].to(x_t.dtype)  # without the learned variance

        def to_latents(self, x):
            return self.vae.encode(x).latent_dist.mode() * SPEC.latent.scale

        def to_pixels(self, z):
            return self.vae.decode(z / SPEC.latent.scale).sample

    return Hunyuan()


SPEC = BackboneSpec(
    name="hunyuan", summary="HunyuanDiT", license="Tencent Hunyuan Community License", hub_revision="0" * 40,
    source="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers", denoiser_subfolder="transformer", parameters=23_110, token_dim=12,
    more_token_dims=(24,), latent=LatentSpace(channels=4, stride=8, scale=0.13025, mean=(0.0,) * 4, std=(1.0,) * 4),
    prediction=Prediction.VELOCITY, lora=(LoraRule(pattern=r"blocks\.\d+\.attn[12]\.(to_[qkv]|to_out\.0)", modules=16),),
    build=build, build_tiny=lambda: build(None, dtype=None, heads=1),
)  # fmt: skip
