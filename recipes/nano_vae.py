"""Train the autoencoder of the nano backbones.   python recipes/nano_vae.py IMAGES RUN_FOLDER

First quarter: L1 alone; then L1 + ST-LPIPS (VGG). Latents are kept small by an L2 term and blurred by noise, so that the
decoder forgives the imprecise latents a bridge will give it.

`--decoder OTHER_RUN` goes on with that run's decoder alone: latents stay what they were, so denoisers trained on them stay
valid. Noise is drawn up to a higher level per image, and a gradient term (L1 of horizontal and vertical differences) works
against stipple.
"""

import argparse
from pathlib import Path

import torch

from priorcodec.backbones.builtin import _nano
from priorcodec.training import checkpoint, sources
from priorcodec.training.data import DeterministicCrops, to_signed
from priorcodec.training.loop import Budget, Loop
from priorcodec.training.losses import Perceptual
from priorcodec.training.settings import split_paths

CROP, WINDOW, BATCH, SEED = 128, 64, 12, 1
NOISE, SHRINK, PERCEPTUAL_WEIGHT = 0.1, 1e-3, 1.0
DECODER_NOISE, GRADIENT_WEIGHT = 0.3, 0.5

cli = argparse.ArgumentParser()
cli.add_argument("images", help="folders and tar shards, with commas between")
cli.add_argument("run", type=Path)
cli.add_argument("--minutes", type=float, default=60)
cli.add_argument("--steps", type=int, default=100_000)
cli.add_argument("--threads", type=int, default=2)
cli.add_argument("--decoder", type=Path)
args = cli.parse_args()


@torch.no_grad()
def start_from(run: Path) -> None:
    """Averaged weights of an earlier run; blocks it did not have stay the identity they start as."""
    old = checkpoint.read(run / checkpoint.NAME)
    values = dict(zip(old["model"], old["average"], strict=True))
    fresh = vae.state_dict()
    moved = {"decoder.9.": "decoder.11."}  # two blocks came in before the last convolution
    for name, value in values.items():
        if name not in fresh:
            for a, b in moved.items():
                name = name.replace(a, b)
        fresh[name].copy_(value)


torch.set_num_threads(args.threads)
torch.manual_seed(SEED)
device = "cuda" if torch.cuda.is_available() else "cpu"
vae = _nano.Autoencoder().to(device, memory_format=torch.channels_last)  # pyright: ignore
perceptual = torch.compile(Perceptual("vgg").to(device, memory_format=torch.channels_last))  # pyright: ignore
if args.decoder:
    vae.encoder.requires_grad_(False)
    if not (args.run / "checkpoint.pt").exists():
        start_from(args.decoder)
loop = Loop(vae, args.run, Budget(lr=4e-4 if args.decoder else 6e-4, steps=args.steps, max_minutes=args.minutes))
entries = sources.find(split_paths(args.images), args.run, background="white")
crops = DeterministicCrops(entries, CROP, seed=SEED)


def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
    x = to_signed(crops.batch(step, BATCH).to(device)).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device, dtype=torch.bfloat16):
        raw = vae.encoder(x)
        level = DECODER_NOISE * torch.rand(BATCH, 1, 1, 1, device=device) if args.decoder else NOISE
        x_hat = vae.decoder(raw + level * torch.randn_like(raw)).float()
    l1 = (x_hat - x).abs().mean()
    shrink = raw.float().square().mean()
    total = l1 + SHRINK * shrink
    scalars = {"l1": l1.item(), "power": shrink.item(), "psnr": -10 * ((x_hat - x) ** 2).mean().div(4).log10().item()}
    if args.decoder:
        total = total + GRADIENT_WEIGHT * sum((x_hat.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (-1, -2))
    if args.decoder or loop.progress > 0.25:
        i, j = torch.randint(CROP - WINDOW + 1, (2,)).tolist()  # a window: this network costs most of a step
        window = (..., slice(i, i + WINDOW), slice(j, j + WINDOW))
        distance = perceptual(x_hat[window].contiguous(), x[window].contiguous()).mean()
        total = total + PERCEPTUAL_WEIGHT * distance
        scalars["perceptual"] = distance.item()
    return total, scalars


loop.run(loss)
