"""All training images as latents of the nano autoencoder, encoded once, and random crops of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from priorcodec.backbones.builtin import _nano
from priorcodec.core.errors import ImageError
from priorcodec.training import sources
from priorcodec.training.data import to_signed
from priorcodec.training.settings import split_paths


class LatentCrops:
    """z = raw * scale with unit spread over all channels; mean, std: of z per channel (for `LatentSpace`)."""

    def __init__(self, images: str, vae_file: Path, folder: Path, size: int, device: str, *, seed: int):
        cache = folder / "latents.pt"
        if not cache.exists():
            folder.mkdir(parents=True, exist_ok=True)
            vae = _nano.Autoencoder()
            vae.load_state_dict(load_file(vae_file))
            vae = vae.to(device, memory_format=torch.channels_last)  # pyright: ignore
            entries = sources.find(split_paths(images), folder, background="white")
            torch.save(_encode_all(entries, vae, device), cache)
        self.latents = [z for z in torch.load(cache) if min(z.shape[1:]) >= size]
        flat = torch.cat([z.float().flatten(1)[:, ::16] for z in self.latents], 1)
        self.scale = 1 / flat.std().item()
        self.mean, self.std = flat.mean(1) * self.scale, flat.std(1) * self.scale
        print("scale", self.scale, "mean", self.mean.tolist(), "std", self.std.tolist(), flush=True)
        self.size, self.device, self.rng = size, device, np.random.default_rng(seed)
        area = np.array([z[0].numel() for z in self.latents], dtype=float)
        weight = np.minimum(area / size**2, 8.0)
        self.weight = weight / weight.sum()

    def batch(self, count: int) -> torch.Tensor:
        """-> (count, c, size, size), normalized."""
        crops = []
        for i in self.rng.choice(len(self.latents), count, p=self.weight):
            z = self.latents[i]
            top, left = (int(self.rng.integers(side - self.size + 1)) for side in z.shape[1:])
            crops.append(z[:, top : top + self.size, left : left + self.size])
        z = torch.stack(crops).to(self.device, torch.float32) * self.scale
        return z.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _encode_all(entries: Sequence[sources.Entry], vae, device: str) -> list[torch.Tensor]:
    out = []
    for entry in entries:
        try:
            image = sources.read(entry, background="white")
        except ImageError as error:
            print(f"left out: {entry.name} ({error})", flush=True)
            continue
        h, w = image.shape[:2]
        x = to_signed(torch.from_numpy(image[: h // 8 * 8, : w // 8 * 8].copy()).to(device)).permute(2, 0, 1)[None]
        with torch.autocast(device, dtype=torch.bfloat16):
            out.append(vae.encoder(x)[0].to("cpu", torch.float16))
    return out
