"""Tier 1, the full architecture: built without weights on torch's meta device and counted."""

from __future__ import annotations

import torch

from priorcodec.adapters import rules
from priorcodec.core.errors import BackboneError
from priorcodec.testing._run import Subject, require
from priorcodec.testing._tiny import require_lora_modules


def check_full_architecture(subject: Subject) -> None:
    """The full model builds on the meta device, honors dtype, and has every module that a rule or site names."""
    spec, module = subject.spec, subject.full().module
    dtypes = {p.dtype for p in module.parameters()}
    require(dtypes == {torch.bfloat16}, f"build(dtype=torch.bfloat16) gave parameters of {dtypes}")
    require_lora_modules(spec, module)
    known = dict(module.named_modules())
    missing = [site.module for site in spec.fusion if site.module not in known]
    require(not missing, f"fusion sites {missing} are no modules of the full denoiser")


def check_counts(subject: Subject) -> str:
    """Parameters, modules of each LoRA rule and channels of each fusion site are as stated; all differences at once."""
    spec, backbone = subject.spec, subject.full()
    parameters = sum(p.numel() for p in backbone.module.parameters())
    counted = [("parameters", spec.parameters, parameters)]
    for rule in spec.lora:
        counted.append(
            (f"LoRA rule {rule.pattern!r}: modules", rule.modules, len(rules.matches(rule, backbone.module)))
        )
    widths, note = {}, ""
    try:
        widths = rules.site_channels(spec, backbone, "meta")
    except BackboneError:
        pass  # a site that does not exist or is not called: check fusion_sites says so
    except Exception as exc:  # some models cannot run without values
        note = f"; channels not compared, predict() does not run on the meta device ({type(exc).__name__})"
    for site in spec.fusion:
        counted.append((f"fusion site {site.module}: channels", site.channels, widths.get(site.module, site.channels)))
    wrong = [f"{what}={right} (the spec says {stated})" for what, stated, right in counted if stated != right]
    require(not wrong, f"state {', '.join(wrong)}")
    return f"{parameters / 1e6:.2f}M parameters{note}"
