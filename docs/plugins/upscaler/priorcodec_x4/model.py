import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from priorcodec_x4 import SPEC

NOISE_LEVEL = 20  # of the small image, as in the model's own pipeline; it is told this level and gets no noise
FULL = {"in_channels": 7, "out_channels": 4, "layers_per_block": 2, "block_out_channels": (256, 512, 512, 1024)}
FULL |= {
    "cross_attention_dim": SPEC.token_dim,
    "num_class_embeds": 1000,
    "use_linear_projection": True,
    "sample_size": 128,
}
FULL |= {"only_cross_attention": (True, True, True, False), "attention_head_dim": 8}
FULL |= {"down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3)}
FULL |= {"up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D")}
TINY = FULL | {
    "block_out_channels": (16, 32, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
}
VAE = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3, "latent_channels": 4}
VAE |= {"scaling_factor": SPEC.latent.scale, "layers_per_block": 2, "block_out_channels": (128, 256, 512)}
TINY_VAE = VAE | {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
SCHEDULE = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


class Upscaler(torch.nn.Module):
    def __init__(self, weights, dtype, tiny):
        super().__init__()
        if weights:  # a folder in the layout of the Hub
            options = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
            self.module = UNet2DConditionModel.from_pretrained(weights / "unet", **options)
            self.vae = AutoencoderKL.from_pretrained(weights / "vae", **options)
            scheduler = DDIMScheduler.from_pretrained(weights / "scheduler", local_files_only=True)
        else:
            with torch.random.fork_rng(devices=[]):  # the process's random numbers stay as they were
                torch.default_generator.manual_seed(0)  # the CPU's alone: `torch.manual_seed` seeds every GPU too
                self.module = UNet2DConditionModel(**(TINY if tiny else FULL))
                self.vae = AutoencoderKL(**(TINY_VAE if tiny else VAE))
            self.to(dtype)
            scheduler = DDIMScheduler(**SCHEDULE)
        self.register_buffer("alphas", scheduler.alphas_cumprod.float(), persistent=False)
        self.requires_grad_(False).eval()

    def alpha_bar(self, t):
        low = t.floor().long().clamp(0, 998)
        return torch.lerp(self.alphas[low], self.alphas[low + 1], t - low)  # times have fractions

    def predict(self, x_t, t, condition):
        dtype = self.module.dtype
        x = torch.cat([x_t, condition.thumbnail], 1).to(dtype)
        level = torch.full((len(x),), NOISE_LEVEL, device=x.device)
        out = self.module(x, t, condition.tokens.to(dtype), class_labels=level, return_dict=False)[0]
        return out.to(x_t.dtype)

    def to_latents(self, x):
        return (self.vae.encode(x.to(self.vae.dtype)).latent_dist.mode() * SPEC.latent.scale).to(x.dtype)

    def to_pixels(self, z):
        return self.vae.decode((z / SPEC.latent.scale).to(self.vae.dtype)).sample.to(z.dtype)
