"""Tier 1, the tiny model: it builds and runs as the contract says, and changes nothing else."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.adapters import rules
from priorcodec.backbones.spec import BackboneSpec
from priorcodec.testing import _side_effects as side_effects
from priorcodec.testing._run import SkipCheck, Subject, require, require_equal, require_shape

CLOSE = 1e-4  # between batch sizes: another order of sums
SEED = "; make random weights under torch.random.fork_rng()"


def check_builds(subject: Subject) -> None:
    """build_tiny() gives a denoiser, in evaluation mode, the same one each time."""
    one, two = subject.tiny(), subject.tiny()
    require(isinstance(one.module, nn.Module), f"module is {type(one.module).__name__}, wanted torch.nn.Module")
    require(not one.module.training, "the denoiser is in training mode; call .eval()")
    for (name, a), b in zip(one.module.state_dict().items(), two.module.state_dict().values(), strict=True):
        require_equal(f"weight {name} of two builds (build_tiny() must seed its random weights)", a, b)


@torch.no_grad()
def check_side_effects(subject: Subject) -> None:
    """Building and calling the model prints nothing, and changes no switch of torch, random state or mode of its modules."""
    with side_effects.observed() as built:
        backbone = subject.tiny()
    x, before = subject.inputs(height=8, width=8), side_effects.of_model(backbone)
    with side_effects.observed() as called:
        backbone.alpha_bar(x["t"])
        backbone.predict(**x)
        backbone.to_latents(backbone.to_pixels(x["x_t"]))
    found = [f"build_tiny() {effect}" for effect in built] + [f"calling the model {effect}" for effect in called]
    found += (
        [] if side_effects.of_model(backbone) == before else ["calling the model changes modes or hooks of its modules"]
    )
    require(not found, "; ".join(found) + SEED * any("torch's random state" in text for text in found))


def check_frozen(subject: Subject) -> None:
    """No weight of the denoiser asks for a gradient: only the adapter is trained."""
    free = [name for name, p in subject.tiny().module.named_parameters() if p.requires_grad]
    require(
        not free, f"{len(free)} weights of the denoiser require gradients ({free[:1]}); call .requires_grad_(False)"
    )


@torch.no_grad()
def check_predict_shape(subject: Subject) -> None:
    """predict() answers with the latent's shape and dtype: no variance channels, whatever the number of tokens."""
    backbone = subject.tiny()
    for tokens in (1, 4, 9):
        x = subject.inputs(tokens=tokens)
        out = backbone.predict(**x)
        require_shape(f"predict() with {tokens} tokens", out, x["x_t"].shape)
        require(out.dtype == x["x_t"].dtype, f"predict() gave {out.dtype} for {x['x_t'].dtype}")


@torch.no_grad()
def check_odd_sizes(subject: Subject) -> None:
    """Latents of odd height and width work, with the same size coming back."""
    backbone = subject.tiny()
    for height, width in ((7, 9), (16, 5), (12, 20)):
        x = subject.inputs(batch=1, height=height, width=width)
        require_shape(f"predict() at {height}x{width}", backbone.predict(**x), x["x_t"].shape)


@torch.no_grad()
def check_deterministic(subject: Subject) -> None:
    """The same input gives the same output twice, and is left as it was."""
    backbone, x = subject.tiny(), subject.inputs()
    before = {k: v.clone() for k, v in x.items() if v is not None}
    with torch.random.fork_rng(devices=[]):
        first = backbone.predict(**x)
        torch.manual_seed(1)
        require_equal("two calls of predict()", backbone.predict(**x), first)
    for name, value in before.items():
        require_equal(f"predict() wrote into its argument {name}", x[name], value)


@torch.no_grad()
def check_batch_invariance(subject: Subject) -> None:
    """An image's result does not depend on the others in the batch."""
    backbone, x = subject.tiny(), subject.inputs(batch=3)
    whole = backbone.predict(**x)
    for i in range(3):
        part = {k: None if v is None else v[i : i + 1] for k, v in x.items()}
        require_equal(f"image {i} alone and in a batch", backbone.predict(**part)[0], whole[i], CLOSE)


@torch.no_grad()
def check_conditions_matter(subject: Subject) -> None:
    """The output depends on time, tokens and (if there is one) the pooled vector."""
    backbone, x = subject.tiny(), subject.inputs()
    base = backbone.predict(**x)
    changed = {"t": x["t"] + 200, "tokens": x["tokens"] + 1}
    if x["pooled"] is not None:
        changed["pooled"] = x["pooled"] + 1
    for name, value in changed.items():
        require(not torch.equal(backbone.predict(**{**x, name: value}), base), f"predict() ignores {name}")


def check_gradients(subject: Subject) -> None:
    """Gradients flow through predict() to latent and tokens and through to_pixels(): adapters train through both."""
    backbone, x = subject.tiny(), subject.inputs()
    z, tokens = x["x_t"].requires_grad_(), x["tokens"].requires_grad_()
    out = backbone.predict(**x)
    require(out.requires_grad, "predict() cuts the gradient; use no torch.no_grad or detach")
    for name, grad in zip(
        ("x_t", "tokens"), torch.autograd.grad(out.sum(), [z, tokens], allow_unused=True), strict=True
    ):
        require(grad is not None and bool(grad.any()), f"no gradient of predict() arrives at {name}")
    pixels = backbone.to_pixels(z)
    require(pixels.requires_grad, "to_pixels() cuts the gradient; use no torch.no_grad or detach")


@torch.no_grad()
def check_alpha_bar(subject: Subject) -> None:
    """alpha_bar falls from near 1 at time 0 to near 0 at 999, for fractions of a step too."""
    backbone = subject.tiny()
    a = backbone.alpha_bar(torch.linspace(0, 999, 41))
    require_shape("alpha_bar()", a, (41,))
    require(bool((a.diff() < 0).all()), "alpha_bar() does not fall all the way")
    require(
        0.95 < a[0].item() <= 1 and 0 <= a[-1].item() < 0.1,
        f"alpha_bar() goes {a[0]:.3f} .. {a[-1]:.3f}, wanted 1 .. 0",
    )


@torch.no_grad()
def check_pixels(subject: Subject) -> None:
    """to_pixels() and to_latents() map latents (b, c, h, w) and images (b, 3, h*stride, w*stride) onto each other."""
    backbone, latent = subject.tiny(), subject.spec.latent
    z = subject.inputs(height=6, width=4)["x_t"]
    x = backbone.to_pixels(z)
    require_shape("to_pixels()", x, (2, 3, 6 * latent.stride, 4 * latent.stride))
    require_shape("to_latents()", backbone.to_latents(x.clamp(-1, 1)), z.shape)
    require_equal("two calls of to_pixels()", backbone.to_pixels(z), x)


@torch.no_grad()
def check_pixel_space(subject: Subject) -> None:
    """A latent that is stated to be pixels is the image, unshuffled: there an adapter's estimate starts as the preview."""
    backbone, latent = subject.tiny(), subject.spec.latent
    if not latent.pixels:
        raise SkipCheck("the latent is not pixels")
    x = torch.rand(2, 3, 6 * latent.stride, 4 * latent.stride, generator=torch.Generator().manual_seed(7)) * 2 - 1
    z = (F.pixel_unshuffle(x, latent.stride) - latent.shift) * latent.scale
    for what, got, wanted in (("to_latents()", backbone.to_latents(x), z), ("to_pixels()", backbone.to_pixels(z), x)):
        require_shape(what, got, wanted.shape)
        require_equal(f"latent.pixels: {what} against the (un)shuffled image", got, wanted, CLOSE)


def check_lora_rules(subject: Subject) -> None:
    """Every LoRA rule matches linear or convolution modules of the tiny model, none of them twice."""
    if not subject.spec.lora:
        raise SkipCheck("no LoRA rules")
    require_lora_modules(subject.spec, subject.tiny().module)


@torch.no_grad()
def check_fusion_sites(subject: Subject) -> None:
    """Every fusion site exists, is run once per call, and its output has the stated stride."""
    backbone, x = subject.tiny(), subject.inputs(height=16, width=24)
    seen: dict[str, list[Any]] = {site.module: [] for site in subject.spec.fusion}
    modules = dict(backbone.module.named_modules())
    for site in subject.spec.fusion:
        require(site.module in modules, f"fusion site {site.module!r} is no module of the denoiser")
        modules[site.module].register_forward_hook(lambda m, a, out, path=site.module: seen[path].append(out))
    backbone.predict(**x)
    for site in subject.spec.fusion:
        calls = len(seen[site.module])
        require(calls == 1, f"fusion site {site.module} ran {calls} times, wanted once")
        out = seen[site.module][0]
        state: Tensor = out[0] if isinstance(out, tuple) else out
        h, w = 16 // site.stride, 24 // site.stride
        wanted = (2, state.shape[1], h, w) if state.ndim == 4 else (2, h * w, state.shape[-1])
        require_shape(f"fusion site {site.module} at stride {site.stride}", state, wanted)


def require_lora_modules(spec: BackboneSpec, module: nn.Module) -> None:
    """Raises CheckError unless every LoRA rule of `spec` names modules that can carry a LoRA, none of them twice."""
    modules, taken = dict(module.named_modules()), dict[str, str]()
    for rule in spec.lora:
        hits = rules.matches(rule, module)
        require(bool(hits), f"LoRA rule {rule.pattern!r} matches no module; it must match a whole path")
        for path in hits:
            kind = type(modules[path])
            require(
                issubclass(kind, nn.Linear | nn.Conv2d), f"LoRA rule {rule.pattern!r} hits {path}, a {kind.__name__}"
            )
            require(path not in taken, f"LoRA rules {taken.get(path)!r} and {rule.pattern!r} both hit {path}")
            taken[path] = rule.pattern
