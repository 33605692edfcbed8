"""DDPM on pixels (Ho et al. 2020): no text, no autoencoder, its files in the repository's own folder."""

from priorcodec import BackboneSpec, FusionSite, LatentSpace, LoraRule, Prediction


def build(weights, *, dtype, width=16):
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    class Ddpm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                self.module = UNet2DModel.from_pretrained(weights) if weights else UNet2DModel(
                    in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(width, 2 * width),
                    norm_num_groups=4, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                )  # fmt: skip
            torch.nn.Module.to(self.module, dtype)  # the one of diffusers warns
            self.register_buffer("alphas", DDPMScheduler().alphas_cumprod)
            self.requires_grad_(False).eval()

        def alpha_bar(self, t):
            low = t.floor().long().clamp(0, 998)
            return torch.lerp(self.alphas[low], self.alphas[low + 1], t - low)

        def predict(self, x_t, t, condition):
            (h, w), dtype = x_t.shape[-2:], self.module.dtype
            x = torch.nn.functional.pad(x_t, (0, w % 2, 0, h % 2), mode="replicate")
            return self.module(x.to(dtype), t).sample[..., :h, :w].to(x_t.dtype)

        def to_latents(self, x):
            return x

        def to_pixels(self, z):
            return z

    return Ddpm()


SPEC = BackboneSpec(
    name="ddpm", summary="DDPM, pixels", license="Apache-2.0", source="google/ddpm-cifar10-32", hub_revision="0" * 40,
    denoiser_subfolder=".", autoencoder_subfolder="", scheduler_subfolder=".", parameters=177_427,
    latent=LatentSpace(channels=3, stride=1, scale=1.0, mean=(0.0,) * 3, std=(0.5,) * 3, pixels=True),
    prediction=Prediction.NOISE, size=32, fusion=(FusionSite(module="mid_block", channels=32, stride=2),),
    lora=(LoraRule(pattern=r".*\.(to_[qkv]|to_out\.0|conv[12])", modules=32),),
    build=build, build_tiny=lambda: build(None, dtype=None, width=8),
)  # fmt: skip
