"""Train nano_dit as an unconditional latent diffusion model.   python recipes/nano_dit.py IMAGES NANO_VAE RUN_FOLDER

NANO_VAE is the frozen autoencoder (recipes/freeze.py nano_vae). The latents are those of recipes/nano_unet.py: copy its
RUN_FOLDER/latents.pt here and they are not encoded again. Loss: velocity with min-SNR weighting (Hang et al. 2023, gamma 5).
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from latents import LatentCrops

from priorcodec.backbones.builtin import nano_dit
from priorcodec.backbones.builtin._nano_dit import Transformer
from priorcodec.backbones.diffusion import add_noise, target
from priorcodec.backbones.spec import Prediction
from priorcodec.training.loop import Budget, Loop

CROP, BATCH, SEED, GAMMA = 32, 16, 3, 5.0
PLACES = 256 - CROP // 2  # a side of 4096 pixels is 256 patches

cli = argparse.ArgumentParser()
cli.add_argument("images", help="folders and tar shards, with commas between")
cli.add_argument("vae", type=Path)
cli.add_argument("run", type=Path)
cli.add_argument("--minutes", type=float, default=60)
cli.add_argument("--steps", type=int, default=100_000)
cli.add_argument("--threads", type=int, default=2)
cli.add_argument("--lr", type=float, default=1e-3)
args = cli.parse_args()


@torch.no_grad()
def start(model: Transformer) -> Transformer:
    """The last layer and cross-attention at zero (Peebles & Xie 2023); queries equal to keys (after Trockman & Kolter 2023).

    Self-attention then begins by looking at similar patches, near ones most of all.
    """
    blocks: Any = model.transformer_blocks
    for linear in (model.proj_out, *(block.attn2.to_out[0] for block in blocks)):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    for block in blocks:
        torch.nn.init.normal_(block.attn1.to_q.weight, std=0.1)
        block.attn1.to_k.load_state_dict(block.attn1.to_q.state_dict())
    return model


torch.set_num_threads(args.threads)
torch.manual_seed(SEED)
device = "cuda" if torch.cuda.is_available() else "cpu"
latents = LatentCrops(args.images, args.vae, args.run, CROP, device, seed=SEED)
model = start(Transformer(**nano_dit.CONFIG)).to(device)  # pyright: ignore
budget = Budget(lr=args.lr, steps=args.steps, max_minutes=args.minutes, warmup=60, ema=0.99)
loop = Loop(model, args.run, budget)
scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
alphas = scheduler.alphas_cumprod.to(device)
tokens = torch.zeros(BATCH, 1, nano_dit.SPEC.token_dim, device=device)


def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
    z = latents.batch(BATCH)
    t = ((torch.arange(BATCH, device=device) + torch.rand(1, device=device)) * (1000 / BATCH)).long()  # evenly spread
    noise, a = torch.randn_like(z), alphas[t]
    model.pos_embed.origin = tuple(torch.randint(PLACES, (2,)).tolist())  # pyright: ignore
    with torch.autocast(device, dtype=torch.bfloat16):
        output = nano_dit.predict(model, add_noise(z, noise, a), t, tokens, None)
    error = (output.float() - target(z, noise, a, Prediction.VELOCITY)).square().mean((1, 2, 3))
    snr = a / (1 - a)
    total = (snr.clamp(max=GAMMA) / (snr + 1) * error).mean()
    return total, {"loss": total.item(), "velocity_mse": error.mean().item(), "noise_mse": (a * error).mean().item()}


loop.run(loss)
