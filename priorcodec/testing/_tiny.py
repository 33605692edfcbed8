"""Tier 1, the model: the tiny one runs as the contract says, the empty full one has the stated shape."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from priorcodec.backbones.spec import BackboneSpec
from priorcodec.testing._run import SkipCheck, Subject, require, require_equal, require_shape

CLOSE = 1e-4  # between batch sizes: another order of sums


def check_builds(subject: Subject) -> None:
    """build_tiny() gives a denoiser, in evaluation mode, the same one each time."""
    one, two = subject.tiny(), subject.tiny()
    require(isinstance(one.module, nn.Module), f"module is {type(one.module).__name__}, wanted torch.nn.Module")
    require(not one.module.training, "the denoiser is in training mode; call .eval()")
    for (name, a), b in zip(one.module.state_dict().items(), two.module.state_dict().values(), strict=True):
        require_equal(f"weight {name} of two builds", a, b)


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


def check_lora_rules(subject: Subject) -> None:
    """Every LoRA rule matches exactly the stated number of linear or convolution modules, none twice."""
    match_rules(subject.spec, subject.tiny().module, tiny=True)


@torch.no_grad()
def check_fusion_sites(subject: Subject) -> None:
    """Every fusion site exists, is run once per call, and its output has the stated channels and stride."""
    backbone, x = subject.tiny(), subject.inputs(height=16, width=24)
    seen: dict[str, list[Any]] = {site.module: [] for site in subject.spec.fusion}
    modules = dict(backbone.module.named_modules())
    for site in subject.spec.fusion:
        require(site.module in modules, f"fusion site {site.module!r} is no module of the denoiser")
        modules[site.module].register_forward_hook(lambda m, a, out, path=site.module: seen[path].append(out))
    backbone.predict(**x)
    for site in subject.spec.fusion:
        require(
            len(seen[site.module]) == 1, f"fusion site {site.module} ran {len(seen[site.module])} times, wanted once"
        )
        out = seen[site.module][0]
        state: Tensor = out[0] if isinstance(out, tuple) else out
        h, w = 16 // site.stride, 24 // site.stride
        wanted = (2, site.tiny_channels, h, w) if state.ndim == 4 else (2, h * w, site.tiny_channels)
        require_shape(f"fusion site {site.module}", state, wanted)


def check_full_architecture(subject: Subject) -> str:
    """The full model builds on the meta device: exact parameters, dtype honoured, rules and sites match."""
    spec = subject.spec
    with torch.device("meta"):
        module = spec.build(None, dtype=torch.bfloat16).module
    count = sum(p.numel() for p in module.parameters())
    require(count == spec.parameters, f"the full denoiser has {count} parameters, the spec says {spec.parameters}")
    dtypes = {p.dtype for p in module.parameters()}
    require(dtypes == {torch.bfloat16}, f"build(dtype=bfloat16) gave {dtypes}")
    match_rules(spec, module, tiny=False)
    missing = [site.module for site in spec.fusion if site.module not in dict(module.named_modules())]
    require(not missing, f"fusion sites {missing} are no modules of the full denoiser")
    return f"{count / 1e6:.2f}M parameters"


def match_rules(spec: BackboneSpec, module: nn.Module, *, tiny: bool) -> None:
    """Raises CheckError unless every LoRA rule of `spec` fits `module`."""
    if not spec.lora:
        raise SkipCheck("no LoRA rules")
    modules, taken = dict(module.named_modules()), dict[str, str]()
    for rule in spec.lora:
        hits = [path for path in modules if re.fullmatch(rule.pattern, path)]
        wanted = rule.tiny_modules if tiny else rule.modules
        require(len(hits) == wanted, f"LoRA rule {rule.pattern!r} matches {len(hits)} modules, wanted {wanted}")
        for path in hits:
            kind = type(modules[path])
            require(
                issubclass(kind, nn.Linear | nn.Conv2d), f"LoRA rule {rule.pattern!r} hits {path}, a {kind.__name__}"
            )
            require(path not in taken, f"LoRA rules {taken.get(path)!r} and {rule.pattern!r} both hit {path}")
            taken[path] = rule.pattern
