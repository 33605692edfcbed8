"""Tier 2: with the real weights, the model is what its spec says: loaded, of the stated size and latent space."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from priorcodec.testing._run import CheckError, SkipCheck, Subject, require

LEAST_DB = 20.0
SAMPLE = 64  # values of a weight that are compared


def check_real_size(subject: Subject) -> None:
    """The loaded denoiser has as many parameters as the architecture that build(None) gives."""
    loaded, alone = (sum(p.numel() for p in b.module.parameters()) for b in (subject.real(), subject.full()))
    require(loaded == alone, f"the weights hold {loaded} parameters, build(None) makes {alone}: is it the same model?")


@torch.no_grad()
def check_weights_loaded(subject: Subject) -> str:
    """The weights come from the folder or file that build() is given: no module is as build(None) makes it, or random."""
    weights = subject.weights
    if weights is None or not (weights.is_dir() or weights.suffix == ".safetensors"):
        raise SkipCheck("the weights are computed, not loaded")
    loaded = _values(subject.real())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        fresh = _values(subject.spec.build(None, dtype=torch.float32))
        torch.manual_seed(2)
        again = _values(subject.spec.build(weights, dtype=torch.float32))
    random = [name for name, value in loaded.items() if not torch.equal(value, again[name])]
    if random:
        raise CheckError(
            f"build(weights) gives {len(random)} of {len(loaded)} weights another value each time, first {random[0]}: "
            "they are never loaded; load_state_dict(..., strict=True) names what is missing"
        )
    drawn = [name for name, value in loaded.items() if value.numel() > 1 and bool((value != value[0]).any())]
    same = [name for name in drawn if name in fresh and torch.equal(loaded[name], fresh[name])]
    require(
        not same,
        f"build(weights) leaves {len(same)} of {len(drawn)} weights as build(None) makes them, first {same[:1]}: they are "
        "never loaded; load_state_dict(..., strict=True) names what is missing",
    )
    return f"{len(loaded)} weights"


def _values(backbone: Any) -> dict[str, Tensor]:
    """The first values of every weight, autoencoder included where the backbone is a module."""
    whole = backbone if isinstance(backbone, torch.nn.Module) else backbone.module
    return {name: p.detach().flatten()[:SAMPLE].float().clone() for name, p in whole.named_parameters()}


@torch.no_grad()
def check_autoencoder(subject: Subject) -> str:
    """An image comes back from the autoencoder at 20 dB or better, in its range, with its channels in order."""
    backbone, x = subject.real(), image()
    z = backbone.to_latents(x)
    back = backbone.to_pixels(z)
    psnr = _psnr(back, x)
    if psnr >= LEAST_DB:
        return f"{psnr:.1f} dB"
    raise CheckError(
        f"to_pixels(to_latents(x)) gives {psnr:.1f} dB back, wanted {LEAST_DB:g} or more: {_why(subject, backbone, x, z, back)}"
    )


def _why(subject: Subject, backbone: Any, x: Tensor, z: Tensor, back: Tensor) -> str:
    """The change of latent or image that brings the image back best, in words."""
    latent, better = subject.spec.latent, 3.0
    scale, shift = latent.scale, latent.shift
    turned: dict[str, Callable[[Tensor], Tensor]] = {
        "the image is upside down": lambda x: x.flip(-2),
        "the image is mirrored": lambda x: x.flip(-1),
        "the image is negated": lambda x: -x,
    }
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2):
            turned[f"its channels are swapped, order {order} is red, green, blue"] = lambda x, order=order: x[
                :, list(order)
            ]
    tried = {text: _psnr(_fit(turn(back), x)[0], x) for text, turn in turned.items()}
    fitted, gain, offset = _fit(back, x)
    plain = _psnr(fitted, x)
    best = max(tried, key=tried.__getitem__)
    if tried[best] > max(plain, LEAST_DB - 5) + better:
        return best
    if plain > LEAST_DB - 3:
        for (g, o), text in RANGES.items():
            if abs(gain / g - 1) < 0.1 and abs(offset - o) < 0.1 * max(1, abs(o)):
                return text
    wrong_sign = "latent.shift is of the wrong sign in one of them"
    changed = [
        ("latent.scale is applied by to_latents() and not undone by to_pixels()", z / scale),
        ("latent.scale is undone by to_pixels() and not applied by to_latents()", z * scale),
        ("latent.scale is multiplied where it should be divided in to_pixels()", z / scale**2),
        ("latent.scale is divided where it should be multiplied in to_latents()", z * scale**2),
        ("latent.shift is applied by one of them only", z + shift * scale),
        ("latent.shift is undone by one of them only", z - shift * scale),
        (wrong_sign, z + 2 * shift * scale),
        (wrong_sign, z - 2 * shift * scale),
    ]
    gained, best = max((_psnr(backbone.to_pixels(value), x), text) for text, value in changed)
    if gained > max(_psnr(back, x) + better, LEAST_DB - 4):
        return best
    if plain > LEAST_DB - 3:
        return f"fitted by a gain of {gain:.3g} and an offset of {offset:.3g}: is one of the two applied twice or not at all?"
    return "no gain, offset or order of channels explains it: do both methods belong to one autoencoder, are its weights loaded?"


RANGES = {  # gain and offset from x in [-1, 1] -> the cause
    (0.5, 0.5): "to_pixels() gives [0, 1], wanted [-1, 1]: return x * 2 - 1",
    (2.0, -1.0): "to_pixels() takes the autoencoder's [-1, 1] for [0, 1]: do not return x * 2 - 1",
    (127.5, 127.5): "to_pixels() gives [0, 255], wanted [-1, 1]: return x / 127.5 - 1",
    (1 / 127.5, 0.0): "to_pixels() divides by 127.5 once too often: wanted [-1, 1]",
}


def _fit(back: Tensor, x: Tensor) -> tuple[Tensor, float, float]:
    """`back` after the gain and offset that bring it closest to x, and the gain and offset that were in it."""
    mean, target = back.mean(), x.mean()
    slope = ((back - mean) * (x - target)).mean() / (back - mean).square().mean().clamp_min(1e-12)
    fitted = target + slope * (back - mean)
    gain = 1 / slope.item() if slope.abs() > 1e-9 else 0.0
    return fitted, gain, mean.item() - gain * target.item()


def _psnr(back: Tensor, x: Tensor) -> float:
    return 10 * torch.log10(4 / (back - x).square().mean().clamp_min(1e-12)).item()


@torch.no_grad()
def check_latent_space(subject: Subject) -> str:
    """z has about the stated mean and standard deviation, and the autoencoder's own scale and shift are the stated ones."""
    backbone, latent = subject.real(), subject.spec.latent
    for name, value in (("scaling_factor", latent.scale), ("shift_factor", latent.shift)):
        for part in vars(backbone).get("_modules", vars(backbone)).values():
            own = getattr(getattr(part, "config", None), name, None)
            agrees = own is None or abs(own - value) <= 1e-3 * abs(own)
            field = "latent.scale" if name == "scaling_factor" else "latent.shift"
            require(agrees, f"{field} is {value}, but {type(part).__name__} says {own} in its config: state that")
    z = torch.cat([backbone.to_latents(image(seed)) for seed in range(3)]).float()
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    stated_mean, stated_std = (torch.tensor(values, device=z.device) for values in (latent.mean, latent.std))
    ratio = (std.square().mean() / stated_std.square().mean()).sqrt().item()
    offset = ((mean - stated_mean) / stated_std).square().mean().sqrt().item()
    uneven = (std / stated_std).log()
    odd = ((uneven - uneven.median()).abs() > 2.3).nonzero().flatten()[:1].tolist()
    require(
        not odd,
        f"channel {odd} of z has a standard deviation of {_short(std[odd])}, latent.std says {_short(stated_std[odd])}: are "
        "the entries in the order of the channels?",
    )
    text = f"standard deviation {std.square().mean().sqrt():.3g}, stated {stated_std.square().mean().sqrt():.3g}"
    if not 0.35 < ratio < 2.9:
        causes = {
            1 / latent.scale: "not applied by to_latents()",
            latent.scale: "applied twice",
            latent.scale**-2: "inverted",
        }
        near = min(causes, key=lambda factor: abs(torch.tensor(ratio / factor).log().item()))
        fits = latent.scale != 1 and 0.6 < ratio / near < 1.7
        cause = f"latent.scale is {causes[near]}" if fits else "is it latent.scale, or latent.std?"
        raise CheckError(f"z of to_latents() has {text}: {cause}")
    require(
        offset < 2,
        f"z of to_latents() has a mean of {_short(mean)}, latent.mean says {_short(stated_mean)}: is latent.shift applied, and "
        "are images in [-1, 1]?",
    )
    return text


def _short(values: Tensor) -> str:
    shown = ", ".join(f"{value:.2f}" for value in values[:4].tolist())
    return f"({shown}{', ...' if len(values) > 4 else ''})"


@torch.no_grad()
def check_memory(subject: Subject) -> str:
    """One step and the autoencoder at the model's own size run; the peak memory is reported."""
    from priorcodec.backbones.conditions import map_condition

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = subject.real()
    if device.type == "cuda":
        backbone = subject.spec.build(subject.weights, dtype=torch.bfloat16)
        for part in (backbone, backbone.module):
            if isinstance(part, torch.nn.Module):
                part.to(device)
    side = subject.spec.size // subject.spec.latent.stride
    x = subject.inputs(1, side, side)
    condition = map_condition(x["condition"], lambda value: value.to(device))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pixels = backbone.to_pixels(backbone.predict(x["x_t"].to(device), x["t"].to(device), condition))
    require(bool(pixels.isfinite().all()), "the decoded image has values that are not finite")
    peak = _peak_bytes(device)
    shown = f"peak {peak / 2**30:.2f} GiB" if peak else "peak unknown"
    return f"{shown} on {device.type} at {subject.spec.size} pixels"


def image(seed: int = 0, side: int = 256) -> Tensor:
    """Something like a photograph, made of nothing: smooth colors with edges (1, 3, side, side) in [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(1, 3, side, side)
    for octave in (2, 4, 8, 16):
        rough = torch.randn(1, 3, octave, octave, generator=g)
        x += torch.nn.functional.interpolate(rough, size=(side, side), mode="bicubic") / octave**0.5
    x[..., side // 3 :, : side // 2] += 0.5
    return x.tanh()


def _peak_bytes(device: torch.device) -> int:
    """Most memory so far; 0 on Windows, which does not tell it so."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
