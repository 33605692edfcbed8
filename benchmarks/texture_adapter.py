"""Does an adapter gain from the texture values beside a latent?   python benchmarks/texture_adapter.py PACK RUN --minutes 60

Two copies of nano_pixel's shipped adapter go on for the same steps on the same crops, qualities 0 to 2.5, with the losses of
`recipes/gpu/finish.py`. One of them reads the values of the regions that the latent gives for nothing, painted into their
cells, as an addition to y_hat that starts at zero, so that they reach its tokens and, through its features, every fusion site:
    values (b, 16, h, w), all zero where the segment is dropped --1x1, SiLU, 3x3, times presence--> addition (b, m, h, w)
PACK holds features.safetensors and vgg.safetensors (recipes/gpu/pack.py). RUN/arms.safetensors gets both copies, averaged.
--kodak FOLDER [--every N] [--minutes 0]: afterwards, or alone, both decode files; results/texture_adapter.json.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import resultfile
import torch
from layer_options import mean
from layers import scores
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from priorcodec.adapters.adapter import Adapter
from priorcodec.backbones.diffusion import seeded_noise
from priorcodec.core import container, shipped
from priorcodec.core.codec import Codec
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.image import io as image_io
from priorcodec.core.layers import texture
from priorcodec.training.losses import periodic_artifact
from priorcodec.training.perceptual import View, feature_distance
from recipes.encoder2.crops import Crops
from recipes.gpu.common import Average, Log, build_backbone, load_features, load_vgg, optimize, schedule

DROPPED = 0.3  # share of the crops without values
STEPS = range(3, 9)  # of the values
TOP = 2 * QUALITY_STEPS + QUALITY_STEPS // 2  # largest quality byte
LR = 2e-4
QUALITIES = (0, 1, 2)
NAMES = ("plain", "texture")


class TextureReader(nn.Module):
    """Painted values (b, 16, h, w), presence (b,) -> addition to y_hat (b, m, h, w); a fresh one adds nothing."""

    def __init__(self, m: int, width: int = 96):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(texture.CHANNELS, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, m, 3, padding=1, padding_mode="replicate"),
        )
        for values in self.layers[2].parameters():
            nn.init.zeros_(values)

    def forward(self, painted: Tensor, present: Tensor) -> Tensor:
        return self.layers(painted) * present.view(-1, 1, 1, 1)


def painted(
    codec: Codec, pixels: np.ndarray, y: Tensor, y_hat_q: np.ndarray, byte: int, step: int
) -> tuple[Tensor, int]:
    """Decoded values of the derived regions in their cells (1, 16, h, w) on the padded grid, and the bytes of their segment."""
    tables, rows, columns = codec.semantic_tables, *(-(-side // 16) for side in pixels.shape[:2])
    labels, _ = tables.derive(y_hat_q, byte, rows, columns)
    _, values = codec.semantic_networks.describe(pixels, y, labels=labels)
    data = tables.texture.encode(values, texture.areas(labels), step)
    decoded, _ = tables.texture.decode(data, texture.areas(labels))
    cells = torch.from_numpy(texture.painted(labels, decoded))[None]
    missing = (0, y.shape[3] - columns, 0, y.shape[2] - rows)
    return nn.functional.pad(cells, missing, mode="replicate"), len(data)


class Arm:
    """One adapter on a backbone of its own, with what trains it."""

    def __init__(self, name: str, m: int, levels: int, encoder_id: int, reads: bool):
        spec, backbone = build_backbone("nano_pixel", shipped.FOLDER / "nano_pixel.safetensors")
        path = shipped.FOLDER / "nano_pixel.adapter.safetensors"
        self.adapter = Adapter.open(path, spec, encoder_id=encoder_id, m=m, levels=levels).requires_grad_(True)
        self.adapter.inject(backbone)
        self.adapter.to(memory_format=torch.channels_last)  # pyright: ignore
        self.reader = TextureReader(m) if reads else None
        named = dict(self.adapter.named_parameters()) | {f"lora.{k}": v for k, v in self.adapter.lora.items()}
        new = dict(self.reader.named_parameters()) if self.reader else {}
        groups = [{"params": list(named.values()), "rate": LR}, {"params": list(new.values()), "rate": 5 * LR}]
        self.named = {f"{name}.{k}": v for k, v in named.items()} | {f"reader.{k}": v for k, v in new.items()}
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=LR, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.average = Average(self.named, 0.99)

    def image(
        self, y_hat: Tensor, values: Tensor, present: Tensor, q: Tensor, preview: Tensor, noise: Tensor
    ) -> Tensor:
        if self.reader is not None:
            y_hat = y_hat + self.reader(values, present)
        z = self.adapter(y_hat, q, preview).z
        return self.adapter.finish(self.adapter.attached.to_pixels(z), q, preview, noise)


def train(codec: Codec, arms: list[Arm], a: argparse.Namespace) -> None:
    crops = Crops(a.cache, seed=23)
    features, vgg = load_features(a.pack / "features.safetensors"), load_vgg(a.pack / "vgg.safetensors")
    log, began, saved, step = Log(a.run / "log.txt"), time.time(), time.time(), 0
    while (share := (time.time() - began) / 60 / a.minutes) < 1:
        rng, generator = np.random.default_rng([23, step]), torch.Generator().manual_seed(step)
        x = crops.batch(step, a.batch, a.crop, enlarged=0.15)
        parts = []
        for pixels in x.permute(0, 2, 3, 1).numpy():
            byte, size = int(rng.integers(TOP + 1)), int(rng.choice(STEPS))
            q = torch.tensor([byte / QUALITY_STEPS])
            y = codec.analyze(pixels)
            with torch.inference_mode():
                y_q, z = codec.transforms.scaled(y, q)
                y_hat_q, _ = codec.entropy_model.quantize(y_q[0].numpy(), z[0].numpy(), byte, lambda *_: None)
                y_hat = codec.transforms.dequantize(torch.from_numpy(y_hat_q)[None], q)
                values, _ = painted(codec, pixels, y, y_hat_q, byte, size)
                parts.append(
                    (y_hat, values, torch.tensor([float(rng.random() > DROPPED)]), q, codec.transforms.g_p(y_hat, q))
                )
        inputs = [torch.cat(part).clone() for part in zip(*parts, strict=True)]
        noise = torch.randn(a.batch, *arms[0].adapter.noise_shape(a.crop, a.crop), generator=generator)
        target = image_io.to_range(x).contiguous(memory_format=torch.channels_last)
        use_vgg = rng.random() < 0.2
        for arm in arms:
            for group in arm.optimizer.param_groups:
                group["lr"] = group["rate"] * min(1, (step + 1) / 20) * schedule(share, 0.4)
            x_hat = arm.image(*inputs, noise)  # pyright: ignore[reportCallIssue]
            view = View.draw(random.Random(step), target.shape[-2:], 128 if use_vgg else 192)
            both = view(torch.cat([x_hat, target]))
            net = vgg if use_vgg else features
            fake = net(both[: a.batch])
            with torch.no_grad():
                real = net(both[a.batch :])
            d = feature_distance(net, fake, real).mean()
            pixel, repeated = (x_hat - target).abs().mean(), periodic_artifact(x_hat, target)
            optimize(arm.optimizer, pixel + 2 * d + 20 * repeated, list(arm.named.values()))
            arm.average.update(arm.named)
            kind = "texture" if arm.reader else "plain"
            log.add(**{f"{kind}_pixel": pixel, f"{kind}_d": d, f"{kind}_repeated": repeated})
        step += 1
        if step % 20 == 0:
            log.flush(f"{step} {(time.time() - began) / 60:.2f} min")
        if time.time() - saved > 180 or (time.time() - began) / 60 >= a.minutes:
            tensors = {k: v.contiguous() for arm in arms for k, v in arm.average.tensors.items()}
            save_file(tensors, a.run / "part", {"steps": str(step)})
            os.replace(a.run / "part", a.run / "arms.safetensors")
            saved = time.time()


def compare(codec: Codec, arms: list[Arm], a: argparse.Namespace) -> None:
    """A row for every quality and reader: means over images."""
    with safe_open(a.run / "arms.safetensors", "pt") as file, torch.no_grad():
        steps = int(file.metadata()["steps"])
        for arm in arms:
            for name, parameter in arm.named.items():
                parameter.copy_(file.get_tensor(name))
    plain, reading = arms
    rows: list[dict[str, Any]] = []
    for quality in QUALITIES:
        found: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(a.kodak.glob("*.png"))[:: a.every]:
            pixels = image_io.load(path).pixels
            y = codec.analyze(pixels)
            encoded = codec.write(y, (pixels.shape[0], pixels.shape[1]), (), quality * QUALITY_STEPS)
            data = values_segment(codec, pixels, y, encoded.container)
            part = container.Segment(type=container.TEXTURE, data=data)
            both = container.pack(replace(encoded.container, segments=(part,)))
            larger = codec.encode_to(pixels, len(both)).encoded
            shown = {
                "none": (encoded.data, image(codec, plain, encoded.data)),
                "none, the copy that reads values": (encoded.data, image(codec, reading, encoded.data)),
                "values": (both, image(codec, reading, encoded.data, data)),
                "larger latent": (larger.data, image(codec, plain, larger.data)),
            }
            for name, (file, decoded) in shown.items():
                found.setdefault(name, []).append({"bytes": len(file), **scores(pixels, decoded)})
        rows += [{"quality": quality, "reader": name, **mean(given)} for name, given in found.items()]
        print(*rows[-4:], sep="\n", flush=True)
    resultfile.write("texture_adapter", "texture_adapter", {"steps": steps, "rows": rows})


def values_segment(codec: Codec, pixels: np.ndarray, y: Tensor, file: container.Container) -> bytes:
    labels = codec.regions(file).labels
    _, values = codec.semantic_networks.describe(pixels, y, labels=labels)
    return codec.semantic_tables.texture.encode(values, texture.areas(labels), texture.STEP)


@torch.inference_mode()
def image(codec: Codec, arm: Arm, file: bytes, segment: bytes | None = None) -> np.ndarray:
    """Decoded by one copy, whole, with the values of a segment or without."""
    decoded = codec.decode(file)
    y_hat, q = decoded.y_hat, torch.tensor([decoded.quality])
    preview, present = codec.preview_tensor(decoded, perceptual=True), torch.tensor([float(segment is not None)])
    values = torch.zeros(1, texture.CHANNELS, *y_hat.shape[2:])
    if segment is not None:
        labels = codec.regions(decoded.container).labels
        read, _ = codec.semantic_tables.texture.decode(segment, texture.areas(labels))
        cells = torch.from_numpy(texture.painted(labels, read))[None]
        missing = (0, y_hat.shape[3] - cells.shape[3], 0, y_hat.shape[2] - cells.shape[2])
        values = nn.functional.pad(cells, missing, mode="replicate")
    shape = arm.adapter.noise_shape(*preview.shape[2:])
    noise = seeded_noise([decoded.seed], (1, *shape), "cpu", torch.float32)(0)
    x_hat = arm.image(y_hat, values, present, q, preview, noise)
    return image_io.to_pixels(x_hat)[: decoded.height, : decoded.width]


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("pack", type=Path)
    p.add_argument("run", type=Path)
    p.add_argument("--cache", type=Path, default=Path("runs/cache/train"))
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--crop", type=int, default=192)
    p.add_argument("--kodak", type=Path)
    p.add_argument("--every", type=int, default=1, help="take every n-th image")
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    codec = Codec()
    shape = codec.transforms.config
    arms = [Arm(name, shape.m, shape.levels, codec.id, name == "texture") for name in NAMES]
    if a.minutes:
        train(codec, arms, a)
    if a.kodak:
        compare(codec, arms, a)


if __name__ == "__main__":
    main()
