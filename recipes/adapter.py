"""Stage 2: train one backbone's adapter, encoder and backbone frozen.   python recipes/adapter.py nano_unet PACKED RUN_FOLDER

Bridge, tokens and LoRA together, through the frozen denoiser and autoencoder, on latent, pixel and perceptual (ST-LPIPS VGG)
distance; qualities drawn per picture over the whole range. Where the backbone's autoencoder has the bridge's layout (our own
nano backbones), the bridge starts as that autoencoder's encoder, applied to the preview.
"""

import argparse
from pathlib import Path

import torch

from priorcodec import open_registry
from priorcodec.adapters import checkpoint
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.bridge import LatentBridge
from priorcodec.adapters.checkpoint import AdapterConfig
from priorcodec.adapters.losses import Perceptual
from priorcodec.backbones import _nano
from priorcodec.core.checkpoint import load_simulation
from priorcodec.core.codec import WEIGHTS, Codec
from priorcodec.data import Crops, to_signed
from priorcodec.training import Budget, Loop

CROP, WINDOW, BATCH, SEED = 128, 64, 12, 3
LATENT_WEIGHT, PIXEL_WEIGHT, PERCEPTUAL_WEIGHT = 0.1, 1.0, 1.0

cli = argparse.ArgumentParser()
cli.add_argument("backbone")
cli.add_argument("packed", type=Path)
cli.add_argument("run", type=Path)
cli.add_argument("--minutes", type=float, default=60)
cli.add_argument("--steps", type=int, default=100_000)
cli.add_argument("--threads", type=int, default=2)
args = cli.parse_args()


@torch.no_grad()
def start_as_encoder(bridge: LatentBridge, vae: torch.nn.Sequential, scale: float) -> None:
    """Copy the encoder (unshuffle, conv, blocks, unshuffle, conv, blocks, conv) into the bridge's own layout."""
    own = [bridge.head[1], *bridge.fine, bridge.down[1], *bridge.coarse, bridge.tail]
    theirs = [layer for layer in vae if not isinstance(layer, torch.nn.PixelUnshuffle)]
    for mine, layer in zip(own, theirs, strict=True):
        mine.load_state_dict(layer.state_dict())
    std, mean = bridge.std.flatten(), bridge.mean.flatten()  # pyright: ignore
    bridge.tail.weight.mul_((scale / std)[:, None, None, None])
    bridge.tail.bias.mul_(scale / std).sub_(mean / std)  # pyright: ignore


torch.set_num_threads(args.threads)
torch.manual_seed(SEED)
device = "cuda" if torch.cuda.is_available() else "cpu"
fast = torch.channels_last
encoder = load_simulation(WEIGHTS / "encoder.safetensors").to(device, memory_format=fast)  # pyright: ignore
levels = encoder.config.levels
registry = open_registry()
spec = registry.spec(args.backbone)
backbone = spec.build(registry.weights(spec), dtype=torch.float32).to(device, memory_format=fast)  # pyright: ignore
adapter = Adapter(spec, AdapterConfig(), m=encoder.config.m, levels=levels)
adapter.inject(backbone)
adapter.to(device, memory_format=fast)  # pyright: ignore
if isinstance(backbone.vae, _nano.Autoencoder):  # pyright: ignore
    start_as_encoder(adapter.bridge, backbone.vae.encoder, spec.latent.scale)  # pyright: ignore
trained = torch.nn.ModuleDict({"adapter": adapter})
trained.lora = torch.nn.ParameterList(list(adapter.lora.values()))  # pyright: ignore
perceptual = torch.compile(Perceptual("vgg").to(device, memory_format=fast))  # pyright: ignore
loop = Loop(trained, args.run, Budget(lr=2.5e-4, steps=args.steps, max_minutes=args.minutes, save_minutes=3))
crops = Crops(args.packed, CROP, seed=SEED + loop.step)


def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
    x = to_signed(crops.batch(BATCH).to(device)).contiguous(memory_format=fast)
    quality = ((torch.randperm(BATCH) + torch.rand(BATCH)) * (levels - 1) / BATCH).to(device)
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        out = encoder(x, quality, autocast=True)
        target = backbone.to_latents(x).float()
    with torch.autocast(device, dtype=torch.bfloat16):
        estimate = adapter(out.y_hat, quality, out.x_hat)
        latent = (estimate.z.float() - target).square().mean()
        x_hat = backbone.to_pixels(estimate.z).float()
    pixel = (x_hat - x).abs().mean()
    i, j = torch.randint(CROP - WINDOW + 1, (2,)).tolist()  # a window: this network costs most of a step
    window = (..., slice(i, i + WINDOW), slice(j, j + WINDOW))
    distance = perceptual(x_hat[window].contiguous(), x[window].contiguous()).mean()
    total = LATENT_WEIGHT * latent + PIXEL_WEIGHT * pixel + PERCEPTUAL_WEIGHT * distance
    return total, {"latent": latent.item(), "l1": pixel.item(), "perceptual": distance.item()}


loop.run(loss)
loop.swap_average()
metadata = {"steps": str(loop.step), "minutes": f"{loop.minutes:.0f}", "licence": "Apache-2.0"}
target = args.run / f"{spec.name}.adapter.safetensors"
checkpoint.save(adapter, target, encoder_id=Codec().id, metadata=metadata)
