"""Latent diffusion with a vector-quantized autoencoder (Rombach et al. 2022): no text, folders unet and vqvae."""

from priorcodec import BackboneSpec, LatentSpace, LoraRule, Prediction


def build(weights, *, dtype, width=16):
    import torch
    from diffusers import DDIMScheduler, UNet2DModel, VQModel

    class Ldm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                self.module = UNet2DModel(
                    in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(width, 2 * width),
                    norm_num_groups=4, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                )  # fmt: skip
                self.vqvae = VQModel(
                    block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=3, num_vq_embeddings=64,
                    down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
                )  # fmt: skip
            if weights:
                self.module = UNet2DModel.from_pretrained(weights / "unet")
                self.vqvae = VQModel.from_pretrained(weights / "vqvae")
            torch.nn.Module.to(self.module, dtype)  # the one of diffusers warns
            schedule = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
            self.register_buffer("alphas", schedule.alphas_cumprod)
            self.requires_grad_(False).eval()

        def alpha_bar(self, t):
            low = t.floor().long().clamp(0, 998)
            return torch.lerp(self.alphas[low], self.alphas[low + 1], t - low)

        def predict(self, x_t, t, condition):
            (h, w), dtype = x_t.shape[-2:], self.module.dtype
            x = torch.nn.functional.pad(x_t, (0, w % 2, 0, h % 2), mode="replicate")
            return self.module(x.to(dtype), t).sample[..., :h, :w].to(x_t.dtype)

        def to_latents(self, x):
            return self.vqvae.encode(x).latents

        def to_pixels(self, z):
            return self.vqvae.decode(z).sample

    return Ldm()


SPEC = BackboneSpec(
    name="ldm_vq", summary="LDM, VQ", license="Apache-2.0", source="CompVis/ldm-celebahq-256", hub_revision="0" * 40,
    denoiser_subfolder="unet", autoencoder_subfolder="vqvae", parameters=177_427,
    latent=LatentSpace(channels=3, stride=4, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3), prediction=Prediction.NOISE,
    lora=(LoraRule(pattern=r".*\.(to_[qkv]|to_out\.0|conv[12])", modules=32),),
    build=build, build_tiny=lambda: build(None, dtype=None, width=8),
)  # fmt: skip
