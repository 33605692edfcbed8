"""LoRA rules against a real module tree: full-match patterns, exact counts, no silent partial match."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from torch import nn

from priorcodec.backbones.spec import LoraRule
from priorcodec.core.errors import BackboneError


def match(rules: Sequence[LoraRule], module: nn.Module, *, tiny: bool = False) -> dict[str, int]:
    """Module path -> LoRA rank, for every module a rule names.

    tiny: hold the counts against `tiny_modules` instead of `modules`.
    Raises:
        BackboneError: a rule matches another number of modules than it states, a module that can carry no LoRA, or one
            that an earlier rule matched already.
    """
    found: dict[str, int] = {}
    tree = dict(module.named_modules())
    for rule in rules:
        names = [name for name in tree if re.fullmatch(rule.pattern, name)]
        wanted = rule.tiny_modules if tiny else rule.modules
        if len(names) != wanted:
            raise BackboneError(
                f"LoRA rule {rule.pattern!r} matches {len(names)} modules, wanted {wanted}: mend the rule or its count"
            )
        for name in names:
            if not isinstance(tree[name], nn.Linear | nn.Conv2d):
                raise BackboneError(
                    f"LoRA rule {rule.pattern!r} matches {name}, a {type(tree[name]).__name__}: wanted Linear or Conv2d"
                )
            if name in found:
                raise BackboneError(f"LoRA rule {rule.pattern!r} matches {name}, which an earlier rule has: narrow it")
            found[name] = rule.rank
    return found


def digest(rules: Sequence[LoraRule]) -> str:
    """12 hex digits that change when the meaning of the rules does; stored in every adapter file."""
    text = "\n".join(f"{rule.pattern} {rule.modules} {rule.rank}" for rule in rules)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
