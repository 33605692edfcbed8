"""Tier 2: with the real weights, the model is what its spec says, in size, prediction type and autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from priorcodec.backbones.diffusion import add_noise, to_input, to_sample
from priorcodec.backbones.spec import Prediction
from priorcodec.testing._run import Subject, require

TIMES = (150.0, 300.0, 450.0)


def check_real_size(subject: Subject) -> None:
    """The loaded denoiser has as many parameters as the architecture that build(None) gives."""
    loaded, alone = (sum(p.numel() for p in b.module.parameters()) for b in (subject.real(), subject.full()))
    require(loaded == alone, f"the weights hold {loaded} parameters, build(None) makes {alone}: is it the same model?")


@torch.no_grad()
def check_autoencoder(subject: Subject) -> str:
    """An image comes back from the autoencoder at 20 dB or better."""
    backbone = subject.real()
    x = image()
    back = backbone.to_pixels(backbone.to_latents(x)).clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (back - x).square().mean()).item()
    require(psnr >= 20, f"the autoencoder gives {psnr:.1f} dB back, wanted 20 or more: is latent.scale right?")
    return f"{psnr:.1f} dB"


@torch.no_grad()
def check_prediction_type(subject: Subject) -> str:
    """Read as the stated prediction type, the output denoises better than read as any other."""
    backbone = subject.real()
    z = backbone.to_latents(image())
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(1, 8, subject.spec.token_dim)
    pooled = torch.zeros(1, subject.spec.pooled_dim) if subject.spec.pooled_dim else None
    errors = dict.fromkeys(Prediction, 0.0)
    for time in TIMES:
        t = torch.full((1,), time)
        a = backbone.alpha_bar(t)
        x_t = add_noise(z, noise, a)
        for kind in Prediction:
            out = backbone.predict(to_input(x_t, a, kind), t, tokens, pooled)
            errors[kind] += (to_sample(out, x_t, a, kind) - z).square().mean().item()
    best = min(errors, key=errors.__getitem__)
    text = ", ".join(f"{kind} {error:.3g}" for kind, error in errors.items())
    require(
        best is subject.spec.prediction, f"denoises best as {best}, the spec says {subject.spec.prediction} ({text})"
    )
    return text


@torch.no_grad()
def check_memory(subject: Subject) -> str:
    """One step and the autoencoder at the model's own size run; the peak memory is reported."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = subject.real()
    if device.type == "cuda":
        backbone = subject.spec.build(subject.weights, dtype=torch.bfloat16)
    for part in (backbone, backbone.module):
        if isinstance(part, torch.nn.Module):
            part.to(device)
    side = subject.spec.size // subject.spec.latent.stride
    x: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in subject.inputs(1, side, side).items()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pixels = backbone.to_pixels(backbone.predict(**x))
    require(bool(pixels.isfinite().all()), "the decoded image has values that are not finite")
    return f"peak {_peak_bytes(device) / 2**30:.2f} GiB on {device.type} at {subject.spec.size} pixels"


def image(side: int = 256) -> Tensor:
    """Something like a photograph, made of nothing: smooth colors with edges (1, 3, side, side) in [-1, 1]."""
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(1, 3, side, side)
    for octave in (2, 4, 8, 16):
        rough = torch.randn(1, 3, octave, octave, generator=g)
        x += torch.nn.functional.interpolate(rough, size=(side, side), mode="bicubic") / octave**0.5
    x[..., side // 3 :, : side // 2] += 0.5
    return x.tanh()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
