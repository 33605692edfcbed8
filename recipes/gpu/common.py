"""What the two training scripts for one GPU share: images on the device, the ensemble of feature networks, time, averages."""

from __future__ import annotations

import importlib
import io
import json
import math
import random
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core.precision import autocast
from priorcodec.training.perceptual import Block, Features, Vgg, View, dists_form, lpips_form
from priorcodec.training.stlpips import Halve

BEGAN = time.time()
LIMIT_FACTOR = 8.0  # the largest images are drawn at most so many times as often as one of the size of a crop


def minutes() -> float:
    return (time.time() - BEGAN) / 60


class Images:
    """All images on the device as uint8, crops cut there; large images are drawn more often."""

    def __init__(self, tars: Sequence[Path], device: torch.device, *, limit: int | None = None):
        data: list[bytes] = []
        for tar in tars:
            with tarfile.open(tar) as files:
                data += [files.extractfile(m).read() for m in files.getmembers()[:limit] if m.isfile()]  # pyright: ignore
        with ThreadPoolExecutor(12) as pool:
            arrays = list(pool.map(lambda b: np.array(Image.open(io.BytesIO(b)).convert("RGB")), data))
        self.images = [torch.from_numpy(a).to(device).permute(2, 0, 1) for a in arrays]
        self.area = torch.tensor([float(a.shape[0] * a.shape[1]) for a in arrays])
        self.short = torch.tensor([min(a.shape[:2]) for a in arrays])

    def batch(self, count: int, size: int, generator: torch.Generator, rng: random.Random, enlarged: float) -> Tensor:
        """-> (count, 3, size, size) in [-1, 1]."""
        chance = (self.area / size**2).clamp(max=LIMIT_FACTOR) * (self.short >= size)
        out = []
        for i in torch.multinomial(chance, count, replacement=True, generator=generator).tolist():
            image = self.images[i]
            short = int(self.short[i])
            draw = rng.random()
            part = size
            if draw < enlarged:
                part = round(size / rng.uniform(1.25, 2.2))
            elif draw > 0.7 and short > 1.25 * size:  # reduced: as fine as an image of the evaluation sets, and clean
                part = round(min(short, size * rng.uniform(1.2, 2.2)))
            top, left = rng.randint(0, image.shape[1] - part), rng.randint(0, image.shape[2] - part)
            crop = image[:, top : top + part, left : left + part]
            if part != size:
                crop = F.interpolate(
                    crop[None].float(), (size, size), mode="bicubic", align_corners=False, antialias=part > size
                )[0].clamp(0, 255)
            out.append((crop.flip(-1) if rng.random() < 0.5 else crop).float())
        return torch.stack(out).div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def save_features(features: Features, path: Path) -> None:
    """Weights in half precision with the plan: what travels to another machine."""
    plan = {"blocks": [asdict(b) for b in features.blocks], "scale": features.scale, "shift": features.shift}
    save_file({k: v.half().contiguous() for k, v in features.state_dict().items()}, path, {"plan": json.dumps(plan)})


def load_features(path: Path) -> Features:
    with safe_open(path, "pt") as file:
        plan = json.loads(file.metadata()["plan"])
        state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
    out = Features([Block(**b) for b in plan["blocks"]], plan["scale"], plan["shift"])
    out.load_state_dict(state)
    return out.to(memory_format=torch.channels_last)  # pyright: ignore


def load_vgg(path: Path) -> Vgg:
    out = Vgg()
    out.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    for module in out.modules():
        if isinstance(module, Halve):
            module.filt.copy_(module.filt / module.filt.sum((2, 3), keepdim=True))
    return out.to(memory_format=torch.channels_last)  # pyright: ignore


class Ensemble(nn.Module):
    """EfficientNet-Lite0 and VGG-16 in LPIPS form and half of the DISTS form, on one random view of all images.

    weights: of the four distances, so that each is about as large as the first.
    """

    def __init__(self, features: Features, vgg: Vgg, *, side: int):
        super().__init__()
        self.features, self.vgg, self.side = features, vgg, side
        self.weights = (0.5, 0.25, 1.1, 0.25)

    def view(self, x: Tensor, rng: random.Random) -> View:
        """A random view of images like x."""
        return View.draw(rng, x.shape[-2:], self.side).to(x.device)

    def forward(self, x_hat: Tensor, x: Tensor, view: View) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """-> distance (b,), and Lite0's features of both images as the view shows them."""
        b, both = len(x), view(torch.cat([x_hat, x]))
        with autocast(x.device):
            fake, fake_vgg = self.features(both[:b]), self.vgg(both[:b])
            with torch.no_grad():
                real, real_vgg = self.features(both[b:]), self.vgg(both[b:])
        w = self.weights
        d = w[0] * lpips_form(fake, real) + w[1] * dists_form(fake, real)
        d = d + w[2] * self.vgg.distance(fake_vgg, real_vgg) + w[3] * dists_form(fake_vgg, real_vgg)
        return d, fake, real


class Average:
    """Exponential moving average of named tensors."""

    def __init__(self, tensors: Mapping[str, Tensor], decay: float):
        self.tensors, self.decay, self.steps = {k: v.detach().clone() for k, v in tensors.items()}, decay, 0

    @torch.no_grad()
    def update(self, now: Mapping[str, Tensor]) -> None:
        self.steps += 1
        decay, keys = min(self.decay, (1 + self.steps) / (10 + self.steps)), list(self.tensors)
        old, new = [self.tensors[k] for k in keys], [now[k].detach() for k in keys]
        torch._foreach_lerp_(old, new, 1 - decay)  # pyright: ignore


def schedule(done: float, hold: float) -> float:
    """Share of the learning rate after a share `done` of the time: constant, then a half cosine down to 1%."""
    if done <= hold:
        return 1.0
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - hold) / (1 - hold))))


def optimize(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[Tensor]) -> None:
    """One step, the gradient clipped to a norm of 1; one that is not finite counts as zero."""
    differentiate(loss, parameters)
    optimizer.step()


def differentiate(loss: Tensor, parameters: Sequence[Tensor]) -> None:
    """Puts the gradient, clipped to a norm of 1, into every `.grad`: the same tensors at every call, as a graph needs it."""
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad.zero_() if gradient is None else p.grad.copy_(gradient)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for p in parameters:  # without waiting for the device
        torch.nan_to_num_(p.grad, 0.0, 0.0, 0.0)  # pyright: ignore


class Recorded:
    """A step on named tensors, recorded as one CUDA graph for each set of shapes and replayed: Python works once, not every time.

    The step must not wait for the device, and draw nothing at random. What it returns is overwritten by the next call. On a
    CPU, or once recording has failed, the step is simply called.

    Args:
        step: Named tensors -> named tensors; it may write gradients.
        log: Where a failure is written to.
        enabled: False to simply call it.
    """

    def __init__(self, step: Callable[..., dict[str, Tensor]], log: Log, *, enabled: bool = True):
        self.step, self.log, self.enabled = step, log, enabled
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, dict[str, Tensor], dict[str, Tensor]]] = {}

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        key = tuple(value.shape for value in inputs.values())
        if key not in self.graphs and self.enabled and all(value.is_cuda for value in inputs.values()):
            try:
                self.graphs[key] = self._record(inputs)
                self.log.say(f"# {minutes():.2f} min: recorded graph {len(self.graphs)}")
            except RuntimeError as error:
                self.log.say(f"# not recorded: {str(error)[:300]}")
                self.enabled = False
        if key not in self.graphs:
            return self.step(**inputs)
        graph, fixed, outputs = self.graphs[key]
        for name, value in inputs.items():
            fixed[name].copy_(value)
        graph.replay()
        return outputs

    def _record(self, inputs: dict[str, Tensor]) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor], dict[str, Tensor]]:
        fixed = {name: value.clone() for name, value in inputs.items()}
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step(**fixed)
        main.wait_stream(side)
        torch.cuda.empty_cache()  # the graphs' memory is their own
        graph, earlier = torch.cuda.CUDAGraph(), next(iter(self.graphs.values()), None)
        with torch.cuda.graph(graph, pool=earlier[0].pool() if earlier else None):
            outputs = self.step(**fixed)
        return graph, fixed, outputs


def build_backbone(name: str, weights: Path | None) -> tuple[BackboneSpec, Any]:
    """A built-in backbone in float32, channels last, with the weights of that file; fresh without one."""
    plugin = importlib.import_module(f"priorcodec.backbones.builtin.{name}")
    backbone = plugin.build(None, dtype=torch.float32)
    backbone.module.to(memory_format=torch.channels_last)
    if weights is not None:
        backbone.module.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    return plugin.SPEC, backbone


class Log:
    """Prints and keeps lines; means of scalars without waiting for the device at every step."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.sums, self.count = path.open("a"), {}, 0

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.file.write(text + "\n")
        self.file.flush()

    def add(self, **scalars: Tensor) -> None:
        for k, v in scalars.items():
            self.sums[k] = self.sums.get(k, 0.0) + v.detach()
        self.count += 1

    def flush(self, start: str) -> None:
        if not self.count:
            return
        self.say(start + " " + " ".join(f"{k} {float(v) / self.count:.4f}" for k, v in self.sums.items()))
        self.sums, self.count = {}, 0
