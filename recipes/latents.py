"""All training images as latents of the nano autoencoder, encoded once, and random crops of them."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from priorcodec.backbones.builtin import _nano
from priorcodec.training.data import to_signed


class LatentCrops:
    """z = raw * scale with unit spread over all channels; mean, std: of z per channel (for `LatentSpace`)."""

    def __init__(self, packed: Path, vae_file: Path, folder: Path, size: int, device: str, *, seed: int):
        cache = folder / "latents.pt"
        if not cache.exists():
            folder.mkdir(parents=True, exist_ok=True)
            vae = _nano.Autoencoder()
            vae.load_state_dict(load_file(vae_file))
            vae = vae.to(device, memory_format=torch.channels_last)  # pyright: ignore
            torch.save(_encode_all(packed, vae, device), cache)
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
def _encode_all(packed: Path, vae, device: str) -> list[torch.Tensor]:
    shapes = json.loads(packed.with_suffix(".json").read_text())
    data = np.memmap(packed.with_suffix(".bin"), dtype=np.uint8, mode="r")
    out, start = [], 0
    for h, w in shapes:
        image = data[start : start + h * w * 3].reshape(h, w, 3)[: h // 8 * 8, : w // 8 * 8]
        start += h * w * 3
        x = to_signed(torch.from_numpy(image.copy()).to(device)).permute(2, 0, 1)[None]
        with torch.autocast(device, dtype=torch.bfloat16):
            out.append(vae.encoder(x)[0].to("cpu", torch.float16))
    return out
