"""Sana (Xie et al. 2024): a linear transformer that predicts the flow, and an autoencoder with stride 32."""

from priorcodec import BackboneSpec, FusionSite, LatentSpace, LoraRule, Prediction

WIDTHS = (8, 8, 8, 8, 8, 8)


def build(weights, *, dtype, width=16):
    import torch
    from diffusers import AutoencoderDC, SanaTransformer2DModel

    class Sana(torch.nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                self.module = SanaTransformer2DModel(
                    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=width // 2, num_layers=2,
                    num_cross_attention_heads=2, cross_attention_head_dim=width // 2, cross_attention_dim=width,
                    caption_channels=12, sample_size=8, patch_size=1,
                )  # fmt: skip
                self.vae = AutoencoderDC(
                    latent_channels=4, attention_head_dim=4, encoder_block_out_channels=WIDTHS,
                    decoder_block_out_channels=WIDTHS, encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6,
                    encoder_block_types="ResBlock", decoder_block_types="ResBlock", encoder_qkv_multiscales=((),) * 6,
                    decoder_qkv_multiscales=((),) * 6, downsample_block_type="Conv", upsample_block_type="interpolate",
                    decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
                )  # fmt: skip
            torch.nn.Module.to(self.module, dtype)  # the one of diffusers warns
            self.requires_grad_(False).eval()

        def alpha_bar(self, t):
            s = t.float() / 1000
            return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)

        def predict(self, x_t, t, condition):
            dtype = self.module.dtype
            tokens = condition.tokens.to(dtype)
            return self.module(x_t.to(dtype), encoder_hidden_states=tokens, timestep=t).sample.to(x_t.dtype)

        def to_latents(self, x):
            return self.vae.encode(x).latent * SPEC.latent.scale

        def to_pixels(self, z):
            return self.vae.decode(z / SPEC.latent.scale).sample

    return Sana()


SPEC = BackboneSpec(
    name="sana", summary="Sana", license="Apache-2.0", source="Efficient-Large-Model/Sana_600M_512px_diffusers",
    hub_revision="0" * 40, denoiser_subfolder="transformer", parameters=16_740, token_dim=12, prediction=Prediction.FLOW,
    latent=LatentSpace(channels=4, stride=32, scale=0.41407, mean=(0.0,) * 4, std=(1.0,) * 4),
    lora=(LoraRule(pattern=r".*\.attn[12]\.(to_[qkv]|to_out\.0)", modules=16),),
    fusion=(FusionSite(module="transformer_blocks.0", channels=16, stride=1),),
    build=build, build_tiny=lambda: build(None, dtype=None, width=8),
)  # fmt: skip
