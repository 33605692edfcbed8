import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel

from priorcodec_sd3 import SPEC

FULL = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}
FULL |= {"joint_attention_dim": SPEC.token_dim, "pooled_projection_dim": SPEC.pooled_dim}
TINY = FULL | {"num_attention_heads": 2, "attention_head_dim": 8, "caption_projection_dim": 16}
VAE = {"latent_channels": 16, "layers_per_block": 2, "use_quant_conv": False, "use_post_quant_conv": False}
VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
FULL_VAE = VAE | {"block_out_channels": [128, 256, 512, 512]}
TINY_VAE = VAE | {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4}


class SD3(torch.nn.Module):
    def __init__(self, weights, dtype, tiny):
        super().__init__()
        if weights:  # a folder in the layout of the Hub
            options = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
            self.module = SD3Transformer2DModel.from_pretrained(weights / "transformer", **options)
            self.vae = AutoencoderKL.from_pretrained(weights / "vae", **options)
        else:
            with torch.random.fork_rng(devices=[]):  # the process's random numbers stay as they were
                torch.default_generator.manual_seed(0)  # the CPU's alone: `torch.manual_seed` seeds every GPU too
                self.module = SD3Transformer2DModel(**(TINY if tiny else FULL))
                self.vae = AutoencoderKL(**(TINY_VAE if tiny else FULL_VAE))
            self.to(dtype)
        self.requires_grad_(False).eval()

    def alpha_bar(self, t):
        s = t.float() / 1000  # flow matching's x = (1 - s) z + s n, on PriorCodec's variance-preserving scale
        return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)

    def predict(self, x_t, t, condition):
        dtype, (h, w) = self.module.dtype, x_t.shape[-2:]
        x = torch.nn.functional.pad(x_t, (0, w % 2, 0, h % 2), mode="replicate")  # whole patches of 2x2
        tokens, pooled = condition.tokens.to(dtype), condition.pooled.to(dtype)
        out = self.module(x.to(dtype), tokens, pooled, t, return_dict=False)[0]
        return out[..., :h, :w].to(x_t.dtype)

    def to_latents(self, x):
        return (self.vae.encode(x).latent_dist.mode() - SPEC.latent.shift) * SPEC.latent.scale

    def to_pixels(self, z):
        return self.vae.decode((z / SPEC.latent.scale + SPEC.latent.shift).to(self.vae.dtype)).sample.to(z.dtype)
