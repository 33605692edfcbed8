"""LoRA rules against a real module tree: full-match patterns, exact counts, no silent partial match.

A spec states the counts and widths of the full model only; `tiny_spec` works out those of the tiny model.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from priorcodec.backbones.conditions import make_condition
from priorcodec.backbones.spec import BackboneSpec, LoraRule
from priorcodec.core.errors import BackboneError


def match(rules: Sequence[LoraRule], module: nn.Module) -> dict[str, int]:
    """Module path -> LoRA rank, for every module a rule names.

    Raises:
        BackboneError: a rule matches another number of modules than it states, a module that can carry no LoRA, or one
            that an earlier rule matched already.
    """
    found: dict[str, int] = {}
    tree = dict(module.named_modules())
    uses = count_uses(module)
    for rule in rules:
        names = matches(rule, module)
        if len(names) != rule.modules:
            raise BackboneError(
                f"LoRA rule {rule.pattern!r} matches {len(names)} modules, wanted {rule.modules}: correct the rule or its count"
            )
        for name in names:
            if problem := obstacle(tree[name], uses):
                raise BackboneError(f"LoRA rule {rule.pattern!r} matches {name}, {problem}")
            if name in found:
                raise BackboneError(f"LoRA rule {rule.pattern!r} matches {name}, which an earlier rule has: narrow it")
            found[name] = rule.rank
    return found


def count_uses(module: nn.Module) -> Counter[int]:
    """`id` of each layer -> under how many names it is in the tree."""
    return Counter(id(layer) for _, layer in module.named_modules(remove_duplicate=False))


def obstacle(layer: nn.Module, uses: Counter[int]) -> str:
    """Why a layer can carry no LoRA that is the same while it is trained and once it is merged; empty if it can.

    uses: `count_uses` of its tree.
    """
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return f"a {type(layer).__name__}: wanted Linear or Conv2d"
    if getattr(layer, "groups", 1) != 1:
        return "a grouped convolution: narrow the rule"
    if parametrize.is_parametrized(layer, "weight"):
        return "whose weight is computed by a parametrization: remove it, or narrow the rule"
    if uses[id(layer)] > 1:
        return "one layer under several names, of which training would reach one: narrow the rule"
    return ""


def matches(rule: LoraRule, module: nn.Module) -> list[str]:
    """Paths of the modules that `rule` names."""
    return [name for name, _ in module.named_modules() if re.fullmatch(rule.pattern, name)]


@functools.lru_cache(maxsize=64)
def tiny_spec(spec: BackboneSpec) -> BackboneSpec:
    """`spec` with the counts and widths of its tiny model, worked out by building and calling it once.

    Raises:
        BackboneError: A LoRA rule matches nothing, or a fusion site does not exist or is not called.
    """
    with torch.random.fork_rng(devices=[]):
        backbone = spec.build_tiny()
    widths = site_channels(spec, backbone)
    lora = tuple(replace(rule, modules=len(matches(rule, backbone.module))) for rule in spec.lora)
    empty = [rule.pattern for rule in lora if not rule.modules]
    if empty:
        raise BackboneError(f"LoRA rule {empty[0]!r} matches no module of the tiny {spec.name}: correct the pattern")
    fusion = tuple(replace(site, channels=widths[site.module]) for site in spec.fusion)
    return replace(spec, lora=lora, fusion=fusion, parameters=sum(p.numel() for p in backbone.module.parameters()))


def site_channels(spec: BackboneSpec, backbone: Any, device: str = "cpu") -> dict[str, int]:
    """Width of the hidden state at each fusion site, found by one call of `predict`.

    Args:
        spec: States the sites.
        backbone: Built from it, full or tiny.
        device: Where the backbone is; "meta" computes shapes only.

    Raises:
        BackboneError: A fusion site does not exist or is not called.
    """
    seen: dict[str, int] = {}

    def record(path: str, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        seen[path] = state.shape[1] if state.ndim == 4 else state.shape[-1]

    modules = dict(backbone.module.named_modules())
    missing = [site.module for site in spec.fusion if site.module not in modules]
    if missing:
        raise BackboneError(f"{spec.name} has no module {missing[0]}: correct the fusion site")
    hooks = [
        modules[site.module].register_forward_hook(lambda _m, _args, output, path=site.module: record(path, output))
        for site in spec.fusion
    ]
    side = max([8, *(2 * site.stride for site in spec.fusion)])
    try:
        with torch.no_grad(), torch.device(device):
            x_t = torch.zeros(1, spec.latent.channels, side, side)
            backbone.predict(x_t, torch.full((1,), 500.0), make_condition(spec, x_t))
    finally:
        for hook in hooks:
            hook.remove()
    idle = [site.module for site in spec.fusion if site.module not in seen]
    if idle:
        raise BackboneError(f"fusion site {idle[0]} of {spec.name} is never called: choose another module")
    return seen


def digest(rules: Sequence[LoraRule]) -> str:
    """12 hex digits that change when the meaning of the rules does; stored in every adapter file."""
    text = "\n".join(f"{rule.pattern} {rule.modules} {rule.rank}" for rule in rules)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
