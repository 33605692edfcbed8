"""Tier 0: a backbone's spec is plain data, and stating it costs no heavy import."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys

from priorcodec.testing._run import Subject, require

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "compressai")


def check_texts(subject: Subject) -> None:
    """Summary, license and source are stated, one line each."""
    for name in ("summary", "license", "source"):
        text = getattr(subject.spec, name)
        require(isinstance(text, str) and bool(text.strip()), f"{name} is empty; state it")
        require("\n" not in text, f"{name} has several lines, wanted one")


def check_numbers(subject: Subject) -> None:
    """Sizes are positive; the stride is a power of two; the latent's spread is positive."""
    spec, latent = subject.spec, subject.spec.latent
    for name in ("parameters", "token_dim", "size"):
        require(getattr(spec, name) > 0, f"{name} is {getattr(spec, name)}, wanted above 0")
    require(spec.pooled_dim >= 0, f"pooled_dim is {spec.pooled_dim}, wanted 0 or more")
    require(
        latent.stride > 0 and latent.stride & (latent.stride - 1) == 0,
        f"latent.stride {latent.stride} is no power of 2",
    )
    require(latent.scale > 0, f"latent.scale is {latent.scale}, wanted above 0")
    require(all(s > 0 for s in latent.std), f"latent.std is {latent.std}, wanted all above 0")


def check_rules_stated(subject: Subject) -> None:
    """There are LoRA rules that compile and state their counts, and fusion sites, each once."""
    spec = subject.spec
    require(bool(spec.lora), "no LoRA rules; nothing of the denoiser could adapt")
    require(bool(spec.fusion), "no fusion sites; the image's features could not reach the denoiser")
    for rule in spec.lora:
        try:
            re.compile(rule.pattern)
        except re.error as exc:
            require(False, f"LoRA pattern {rule.pattern!r} does not compile: {exc}")
        counts = (rule.modules, rule.tiny_modules, rule.rank)
        require(
            min(counts) > 0, f"LoRA rule {rule.pattern!r}: modules, tiny_modules, rank are {counts}, wanted above 0"
        )
    paths = [site.module for site in spec.fusion]
    require(len(set(paths)) == len(paths), f"a fusion site is stated twice: {paths}")
    for site in spec.fusion:
        sizes = (site.channels, site.tiny_channels, site.stride)
        require(
            min(sizes) > 0, f"fusion site {site.module}: channels, tiny_channels, stride are {sizes}, wanted above 0"
        )


def check_light_import(subject: Subject) -> None:
    """Importing the module of `build` loads no heavy library: listing backbones must stay quick."""
    build = subject.spec.build
    while isinstance(build, functools.partial):
        build = build.func
    code = f"import sys, {build.__module__}; print(','.join(n for n in {HEAVY!r} if n in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    require(done.returncode == 0, f"module {build.__module__} cannot be imported by itself: {last}")
    heavy = done.stdout.strip()
    require(not heavy, f"importing {build.__module__} loads {heavy}; import them inside build()")
