"""Tier 1, the tiny model: it builds and answers as the contract says, and changes nothing else."""

from __future__ import annotations

import difflib
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.adapters import rules
from priorcodec.backbones.conditions import map_condition, tensors
from priorcodec.backbones.spec import METHODS, BackboneSpec, Prediction
from priorcodec.testing import _side_effects as side_effects
from priorcodec.testing._calls import CLOSE, calls, replace_tensor
from priorcodec.testing._run import CheckError, SkipCheck, Subject, describe, require, require_equal, require_shape


def check_builds(subject: Subject) -> None:
    """build_tiny() gives a denoiser, in evaluation mode, the same one each time, with every method of a backbone."""
    built = []
    for seed in (1, 2):  # two processes do not begin with the same random numbers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built.append(subject.tiny())
    one, two = built
    require(isinstance(one.module, nn.Module), f"module is {type(one.module).__name__}, wanted torch.nn.Module")
    require(not one.module.training, "the denoiser is in training mode; call .eval()")
    for name in METHODS:
        near = difflib.get_close_matches(name, set(dir(one)) - {name}, n=1, cutoff=0.7)
        found = f"; is it {near[0]}()?" if near else ""
        require(callable(getattr(one, name, None)), f"the backbone has no method {name}(){found}")
    for (name, a), b in zip(one.module.state_dict().items(), two.module.state_dict().values(), strict=True):
        require_equal(f"weight {name} of two builds (build_tiny() must seed its random weights)", a, b)


@torch.no_grad()
def check_side_effects(subject: Subject) -> None:
    """Building and each method print nothing, and change no switch of torch, random state, mode, hook or weight."""
    with side_effects.observed() as built:
        backbone = subject.tiny()
    found = [f"{subject.builder}() {effect}" for effect in built]
    for name, call in calls(backbone, subject).items():
        before = side_effects.of_model(backbone)
        with side_effects.observed() as changed:
            call()
        found += [f"{name}() {effect}" for effect in changed + side_effects.difference(backbone, before)]
    remedies = {remedy for word, remedy in side_effects.REMEDIES.items() if any(word in text for text in found)}
    require(not found, "; ".join([*found, *sorted(remedies)]))


def check_frozen(subject: Subject) -> None:
    """No weight of the denoiser asks for a gradient: only the adapter is trained."""
    free = [name for name, p in subject.tiny().module.named_parameters() if p.requires_grad]
    require(
        not free, f"{len(free)} weights of the denoiser require gradients ({free[:1]}); call .requires_grad_(False)"
    )


@torch.no_grad()
def check_predict_shape(subject: Subject) -> None:
    """predict() answers with the latent's shape and dtype: no variance channels, whatever the number of tokens."""
    backbone, channels = subject.tiny(), subject.spec.latent.channels
    for tokens in (1, 4, 9):
        x = subject.inputs(tokens=tokens, width=12)
        try:
            out = backbone.predict(**x)
        except RuntimeError as exc:
            raise CheckError(f"predict() raised {describe(exc)}{_other_width(subject.spec, str(exc))}") from exc
        if out.ndim == 4 and out.shape[1] == 2 * channels:
            raise CheckError(
                f"predict() gives {out.shape[1]} channels for {channels}: drop the learned variance, out[:, :{channels}]"
            )
        what = f"predict() with {tokens} tokens" if subject.spec.token_dim else "predict() of a latent of 8x12"
        require_shape(what, out, x["x_t"].shape)
        require(
            out.dtype == x["x_t"].dtype, f"predict() gave {out.dtype} for {x['x_t'].dtype}; end with .to(x_t.dtype)"
        )


def _other_width(spec: BackboneSpec, error: str) -> str:
    """What of the spec has another width than a layer of the denoiser, told by torch's words about the product of both."""
    shapes = re.search(r"\((\d+)x(\d+) and (\d+)x(\d+)\)", error)
    if shapes is None:
        return ""
    fields = [("token_dim", spec.token_dim), ("pooled_dim", spec.pooled_dim), ("feature_dim", spec.feature_dim)]
    fields += [("more_token_dims", width) for width in spec.more_token_dims]
    names = [name for name, width in fields if width == int(shapes[2])]
    return f"; a layer takes {shapes[3]}: correct {' or '.join(names)} in the spec" if names else ""


@torch.no_grad()
def check_conditions_matter(subject: Subject) -> None:
    """The output depends on time, fractions of a step too, and on every field of the condition that the spec asks for."""
    backbone, x = subject.tiny(), subject.inputs()
    base, t = backbone.predict(**x), x["t"]
    same = "predict() ignores t: pass it to the denoiser"
    require(not torch.equal(backbone.predict(**{**x, "t": t + 200}), base), same)
    rounded = "predict() rounds t to whole steps: pass t as it is, .long() and .round() lose the fraction"
    require(not torch.equal(backbone.predict(**{**x, "t": t + 0.4}), base), rounded)
    for name, value in tensors(x["condition"]).items():
        changed = {**x, "condition": replace_tensor(x["condition"], name, value + 1)}
        require(
            not torch.equal(backbone.predict(**changed), base),
            f"predict() ignores condition.{name}: pass it to the denoiser, or do not ask for it in the spec",
        )
        if "tokens" in name:
            last = value.clone()
            last[:, -1] += 1
            changed = {**x, "condition": replace_tensor(x["condition"], name, last)}
            require(
                not torch.equal(backbone.predict(**changed), base),
                f"predict() ignores all but the first of condition.{name}: pass every token",
            )


def check_gradients(subject: Subject) -> None:
    """Gradients flow through predict() to latent and condition and through to_pixels(): adapters train through both."""
    backbone, x = subject.tiny(), subject.inputs()
    z, condition = x["x_t"].requires_grad_(), map_condition(x["condition"], lambda value: value.requires_grad_())
    out = backbone.predict(z, x["t"], condition)
    remedy = "use no torch.no_grad, inference_mode, detach or .data"
    require(out.requires_grad, f"predict() cuts the gradient; {remedy}")
    inputs = {"x_t": z} | {f"condition.{name}": value for name, value in tensors(condition).items()}
    grads = torch.autograd.grad(out.sum(), list(inputs.values()), allow_unused=True)
    for name, grad in zip(inputs, grads, strict=True):
        require(
            grad is not None and bool(grad.any()),
            f"no gradient of predict() arrives at {name}: is it detached? {remedy}",
        )
        assert grad is not None
        require(bool(grad.isfinite().all()), f"the gradient of predict() at {name} is not finite")
    pixels = backbone.to_pixels(z)
    require(pixels.requires_grad, f"to_pixels() cuts the gradient; {remedy}")
    (grad,) = torch.autograd.grad(pixels.square().sum(), [z], allow_unused=True)
    require(grad is not None and bool(grad.any()), f"no gradient of to_pixels() arrives at z: is it detached? {remedy}")


@torch.no_grad()
def check_alpha_bar(subject: Subject) -> None:
    """alpha_bar falls from near 1 at time 0 to near 0 at 999, for fractions of a step too, each image by its own time."""
    backbone = subject.tiny()
    t = torch.linspace(0, 999, 41)
    a = backbone.alpha_bar(t)
    require_shape("alpha_bar()", a, (41,))
    unit = backbone.alpha_bar(t / 1000)
    require(
        not (bool((a.diff() > 0).any()) and bool((unit.diff() < 0).all()) and unit[-1].item() < 0.1),
        "alpha_bar() takes t in [0, 1]: t comes in [0, 999], divide it by 1000",
    )
    ends = f"alpha_bar() goes from {a[0]:.3f} at 0 to {a[-1]:.3f} at 999, wanted near 1 to near 0"
    require(not bool((a.diff() > 0).all()), f"{ends}: time is reversed, 0 is the clean end; or it is the noise's share")
    require(
        bool((a <= 1).all() and (a >= 0).all()), f"{ends}: it leaves [0, 1]; is it sigma or a signal-to-noise ratio?"
    )
    require(a[0].item() > 0.95 and a[-1].item() < 0.1, f"{ends}: is t in [0, 999], and is it the cumulative product?")
    require(bool((a.diff() < 0).all()), "alpha_bar() does not fall all the way")
    fractions = backbone.alpha_bar(torch.tensor([500.0, 500.25, 500.5, 500.75, 501.0]))
    require(
        bool((fractions.diff() < 0).all()),
        "alpha_bar() knows whole steps only: interpolate between alphas_cumprod[t] and [t + 1], times have fractions",
    )
    require_equal("alpha_bar() of one time alone and among others", backbone.alpha_bar(t[7:8])[0], a[7], CLOSE)
    if subject.spec.prediction is Prediction.FLOW:
        signal = 1 - t / 1000
        for name, wrong in (("1 - s", signal), ("(1 - s)^2", signal**2)):
            require(
                not torch.allclose(a, wrong, atol=2e-3),
                f"alpha_bar() is {name} of the flow's own path, which does not preserve variance: return "
                "(1 - s)**2 / ((1 - s)**2 + s**2)",
            )


@torch.no_grad()
def check_pixels(subject: Subject) -> None:
    """to_pixels() and to_latents() map latents (b, c, h, w) and images (b, 3, h*stride, w*stride) onto each other, unclamped."""
    backbone, latent = subject.tiny(), subject.spec.latent
    z = subject.inputs(height=6, width=4)["x_t"]
    with side_effects.clamps() as found:
        x = backbone.to_pixels(z)
    require_shape("to_pixels()", x, (2, 3, 6 * latent.stride, 4 * latent.stride))
    require(x.is_floating_point(), f"to_pixels() gives {x.dtype}, wanted floating point values in [-1, 1]")
    require(
        not any(shape == tuple(x.shape) for shape in found),
        "to_pixels() clamps the image: return it as the autoencoder gives it, out of range where it is",
    )
    with side_effects.clamps() as found:
        back = backbone.to_latents(x)
    require_shape("to_latents()", back, z.shape)
    require(not any(shape == tuple(x.shape) for shape in found), "to_latents() clamps the image: take it as it is")


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
    """Every LoRA rule matches linear or convolution modules of the tiny model that can carry one, none of them twice."""
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
    hooks = [
        modules[site.module].register_forward_hook(lambda m, a, out, path=site.module: seen[path].append(out))
        for site in subject.spec.fusion
    ]
    try:
        backbone.predict(**x)
    finally:
        for hook in hooks:
            hook.remove()
    for site in subject.spec.fusion:
        count = len(seen[site.module])
        require(count == 1, f"fusion site {site.module} ran {count} times, wanted once")
        out = seen[site.module][0]
        state: Tensor = out[0] if isinstance(out, tuple) else out
        h, w = 16 // site.stride, 24 // site.stride
        wanted = (2, state.shape[1], h, w) if state.ndim == 4 else (2, h * w, state.shape[-1])
        joint = "; text and image in one stream cannot be a site: take the feed-forward layer of an image stream"
        require(
            state.ndim == 4 or state.shape[1] <= h * w,
            f"fusion site {site.module} answers {state.shape[1]} positions for {h * w} of the image at stride {site.stride}"
            + (joint if subject.spec.token_dim else "; does the denoiser pad to a square?"),
        )
        require_shape(f"fusion site {site.module} at stride {site.stride}", state, wanted)


def require_lora_modules(spec: BackboneSpec, module: nn.Module) -> None:
    """Raises CheckError unless every LoRA rule of `spec` names modules that can carry a LoRA, none of them twice."""
    modules, uses, taken = dict(module.named_modules()), rules.count_uses(module), dict[str, str]()
    for rule in spec.lora:
        hits = rules.matches(rule, module)
        require(bool(hits), f"LoRA rule {rule.pattern!r} matches no module; it must match a whole path")
        for path in hits:
            problem = rules.obstacle(modules[path], uses)
            require(not problem, f"LoRA rule {rule.pattern!r} hits {path}, {problem}")
            require(path not in taken, f"LoRA rules {taken.get(path)!r} and {rule.pattern!r} both hit {path}")
            taken[path] = rule.pattern
