"""Stage 1: train the fixed encoder, auxiliary decoder and entropy model.   python recipes/encoder.py PACKED RUN_FOLDER

PACKED is what `python recipes/pack.py` wrote. Resumes from RUN_FOLDER. The settings below are the ones of the shipped file.
`--start OTHER_RUN` begins with the averaged weights of another run and a fresh optimiser.
"""

import argparse
from pathlib import Path

import torch

from priorcodec.core.encoder import EncoderConfig, ImageEncoder
from priorcodec.core.pretext import Ladder, pretext_loss
from priorcodec.data import Crops, to_signed
from priorcodec.training import Budget, Loop

CROP, BATCH, SEED = 256, 8, 0
CONFIG, LADDER = EncoderConfig(), Ladder()

cli = argparse.ArgumentParser()
cli.add_argument("packed", type=Path)
cli.add_argument("run", type=Path)
cli.add_argument("--minutes", type=float, default=60)
cli.add_argument("--steps", type=int, default=100_000)
cli.add_argument("--lr", type=float, default=6e-4)
cli.add_argument("--threads", type=int, default=2)
cli.add_argument("--start", type=Path)
args = cli.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(SEED)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = ImageEncoder(CONFIG).to(device, memory_format=torch.channels_last)  # pyright: ignore
if args.start and not (args.run / "checkpoint.pt").exists():
    old = torch.load(args.start / "checkpoint.pt", map_location=device, weights_only=True)
    model.load_state_dict(old["model"])
    for parameter, average in zip(model.parameters(), old["average"], strict=True):
        parameter.data.copy_(average)
loop = Loop(model, args.run, Budget(lr=args.lr, steps=args.steps, max_minutes=args.minutes))
crops = Crops(args.packed, CROP, seed=SEED + loop.step)


def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
    x = to_signed(crops.batch(BATCH).to(device)).contiguous(memory_format=torch.channels_last)
    # stratified: each batch covers the whole range of qualities
    quality = (torch.randperm(BATCH) + torch.rand(BATCH)) * (CONFIG.levels - 1) / BATCH
    quality = quality.to(device)
    out = pretext_loss(model, x, quality, LADDER, autocast=True)
    psnr = 10 * torch.log10(255**2 / out.mse)
    half = quality < (CONFIG.levels - 1) / 2
    return out.loss, {
        "loss": out.loss.item(),
        "bpp_low": out.bpp[half].mean().item(),
        "bpp_high": out.bpp[~half].mean().item(),
        "psnr_low": psnr[half].mean().item(),
        "psnr_high": psnr[~half].mean().item(),
    }


loop.run(loss)
