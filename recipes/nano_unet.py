"""Train nano_unet as an unconditional latent diffusion model.   python recipes/nano_unet.py IMAGES NANO_VAE RUN_FOLDER

NANO_VAE is the frozen autoencoder (recipes/freeze.py nano_vae). All images are encoded once; crops are cut in latent space.
Loss: noise prediction with min-SNR weighting (Hang et al. 2023, gamma 5).
"""

import argparse
from pathlib import Path

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from latents import LatentCrops

from priorcodec.backbones.builtin import nano_unet
from priorcodec.backbones.builtin._nano_unet import UNet
from priorcodec.backbones.diffusion import add_noise
from priorcodec.training.loop import Budget, Loop

CROP, BATCH, SEED, GAMMA = 32, 16, 2, 5.0

cli = argparse.ArgumentParser()
cli.add_argument("images", help="folders and tar shards, with commas between")
cli.add_argument("vae", type=Path)
cli.add_argument("run", type=Path)
cli.add_argument("--minutes", type=float, default=60)
cli.add_argument("--steps", type=int, default=100_000)
cli.add_argument("--threads", type=int, default=2)
args = cli.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(SEED)
device = "cuda" if torch.cuda.is_available() else "cpu"
latents = LatentCrops(args.images, args.vae, args.run, CROP, device, seed=SEED)
unet = UNet(**nano_unet.CONFIG).to(device, memory_format=torch.channels_last)  # pyright: ignore
loop = Loop(unet, args.run, Budget(lr=4e-4, steps=args.steps, max_minutes=args.minutes))
scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
alphas = scheduler.alphas_cumprod.to(device)
tokens = torch.zeros(BATCH, 1, nano_unet.SPEC.token_dim, device=device)


def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
    z = latents.batch(BATCH)
    t = torch.randint(1000, (BATCH,), device=device)
    noise, a = torch.randn_like(z), alphas[t]
    with torch.autocast(device, dtype=torch.bfloat16):
        output = nano_unet.predict(unet, add_noise(z, noise, a), t, tokens, None)
    error = (output.float() - noise).square().mean((1, 2, 3))
    weight = (a / (1 - a)).clamp(max=GAMMA) / (a / (1 - a))
    total = (weight * error).mean()
    return total, {"loss": total.item(), "noise_mse": error.mean().item()}


loop.run(loss)
