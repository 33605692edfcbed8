"""A backbone that keeps the whole contract, its real denoiser included, and helpers that spoil one thing of it.

The denoiser is the best linear one for latents with the spectrum of images (Wiener 1949), so that tier 2 can measure it;
a small network with LoRA targets, a fusion site and conditions adds a little to it.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from priorcodec import BackboneSpec, FusionSite, LatentSpace, LoraRule, Prediction

SCALE, SHIFT = 2.0, 0.25


class Denoiser(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(4, width, 3, padding=1, padding_mode="replicate")
        self.text, self.vector = nn.Linear(6, width), nn.Linear(5, width)
        self.conv2 = nn.Conv2d(width, 4, 3, padding=1, padding_mode="replicate")
        self.spare = nn.Conv2d(4, 4, 1)

    def forward(self, x, t, tokens, pooled):
        shift = self.text(tokens).mean(1) + self.vector(pooled) + t[:, None] / 1000
        return self.conv2(torch.tanh(self.conv1(x) + shift[..., None, None])) + self.spare(x)


def schedule(t):
    """The schedule that the denoiser was made for, whatever `alpha_bar` says."""
    return torch.cos(t / 1000 * math.pi / 2) ** 2


def wiener(x, a):
    """x = sqrt(a) z + sqrt(1 - a) n -> the best linear estimate of z."""
    fy, fx = (torch.fft.fftfreq(side, device=x.device) for side in x.shape[-2:])
    spectrum = 40 * SCALE**2 / (1 + (torch.hypot(fy[:, None], fx) / 0.03) ** 2) ** 1.7
    return torch.fft.ifft2(torch.fft.fft2(x) * a.sqrt() * spectrum / (a * spectrum + 1 - a)).real


class Good(nn.Module):
    kind = Prediction.SAMPLE

    def __init__(self, width=8):
        super().__init__()
        self.module = Denoiser(width)
        self.requires_grad_(False).eval()

    def alpha_bar(self, t):
        return schedule(t)

    def predict(self, x_t, t, condition):
        x, a = x_t.float(), schedule(t)[:, None, None, None]
        x = x * (a.sqrt() + (1 - a).sqrt()) if self.kind is Prediction.FLOW else x
        dtype = next(self.module.parameters()).dtype
        net = self.module(*(value.to(dtype) for value in (x, t, condition.tokens, condition.pooled)))
        z = wiener(x, a) + 0.01 * net.float()
        noise = (x - a.sqrt() * z) / (1 - a).sqrt()
        kinds = {
            Prediction.SAMPLE: z,
            Prediction.NOISE: noise,
            Prediction.VELOCITY: a.sqrt() * noise - (1 - a).sqrt() * z,
            Prediction.FLOW: noise - z,
        }
        return kinds[self.kind].to(x_t.dtype)

    def to_latents(self, x):
        z = F.avg_pool2d(x, 8)
        return (torch.cat([z, z.mean(1, keepdim=True)], 1) - SHIFT) * SCALE

    def to_pixels(self, z):
        return F.interpolate(z[:, :3] / SCALE + SHIFT, scale_factor=8, mode="bilinear")


LATENT = LatentSpace(channels=4, stride=8, scale=SCALE, shift=SHIFT, mean=(0.0,) * 4, std=(1.0,) * 4)
LORA = LoraRule(pattern=r"conv[12]|text|vector", modules=4, rank=2)


def make(kind=Good, tiny=None, **changes):
    """The good spec, built from `kind`; tiny: the class of the tiny model, if that is another one."""

    def build(weights, *, dtype):
        with torch.random.fork_rng(devices=[]):
            model = kind(16)
        if weights and weights.suffix == ".safetensors":
            model.load_state_dict(load_file(weights), strict=False)
        return model.to(dtype)

    def build_tiny():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = (tiny or kind)()
        getattr(model, "after", lambda: None)()
        return model

    build.__module__ = "json"  # light, and importable by itself
    count = sum(p.numel() for p in Denoiser(16).parameters())
    fields = {
        "name": "good", "summary": "s", "license": "MIT", "source": "here", "latent": LATENT,
        "prediction": kind.kind, "size": 64, "parameters": count, "token_dim": 6, "pooled_dim": 5, "lora": (LORA,),
        "fusion": (FusionSite(module="conv1", channels=16, stride=1),), "build": build, "build_tiny": build_tiny,
    }  # fmt: skip
    return BackboneSpec(**fields | changes)


def bad(method, function, kind=Good):
    """A class like Good but for one method; `function` gets the good one as its first argument."""
    good = getattr(kind, method)
    return type("Bad", (kind,), {method: lambda self, *args, **kwargs: function(good, self, *args, *kwargs.values())})


def after_init(function, kind=Good):
    """A class like Good that does one more thing when it is built."""

    class Bad(kind):
        def __init__(self, width=8):
            super().__init__(width)
            function(self)

    return Bad


def of(prediction):
    """The good backbone with another prediction type."""
    return type("Good", (Good,), {"kind": prediction})
