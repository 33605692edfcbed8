"""Tier 0: a backbone's spec is plain data, and importing its module is quick and without side effects."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from typing import Any

from priorcodec.adapters.hub import HUB_ID
from priorcodec.testing._run import CheckError, Subject, require

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "compressai")
IMPORT_SECONDS = 60.0  # far more than any import that lists backbones needs
PROBE = """
import contextlib, io, json, sys
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    import {module}
heavy = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps({{"heavy": heavy, "printed": printed.getvalue()}}))
"""


def check_texts(subject: Subject) -> None:
    """Summary, license and source are stated, one line each."""
    for name in ("summary", "license", "source"):
        text = getattr(subject.spec, name)
        require(isinstance(text, str) and bool(text.strip()), f"{name} is empty; state it")
        require("\n" not in text, f"{name} has several lines, wanted one")


def check_source(subject: Subject) -> None:
    """A spec with a Hub commit names a Hub repository as its source."""
    spec = subject.spec
    require(
        not spec.hub_revision or bool(re.fullmatch(HUB_ID, spec.source)),
        f"source {spec.source!r} is no Hub id OWNER/REPO, but hub_revision is stated: correct one of them",
    )


def check_rules_stated(subject: Subject) -> None:
    """There are LoRA rules; numbers in rules and fusion sites are positive; no site twice."""
    spec = subject.spec
    require(bool(spec.lora), "no LoRA rules; nothing of the denoiser could adapt")
    for rule in spec.lora:
        counts = (rule.modules, rule.rank)
        require(min(counts) > 0, f"LoRA rule {rule.pattern!r}: modules, rank are {counts}, wanted above 0")
    paths = [site.module for site in spec.fusion]
    require(len(set(paths)) == len(paths), f"a fusion site is stated twice: {paths}")
    for site in spec.fusion:
        sizes = (site.channels, site.stride)
        require(min(sizes) > 0, f"fusion site {site.module}: channels, stride are {sizes}, wanted above 0")


def check_light_import(subject: Subject) -> None:
    """Importing the module of `build` loads no heavy library: listing backbones must stay quick."""
    heavy = ", ".join(_imported(subject)["heavy"])
    require(not heavy, f"importing {_module(subject)} loads {heavy}; import them inside build()")


def check_quiet_import(subject: Subject) -> None:
    """Importing the module of `build` prints nothing to standard output, which belongs to the program."""
    printed = _imported(subject)["printed"]
    require(not printed, f"importing {_module(subject)} prints {printed[:60]!r} to standard output; use logging")


def _module(subject: Subject) -> str:
    build = subject.spec.build
    while isinstance(build, functools.partial):
        build = build.func
    return build.__module__


def _imported(subject: Subject) -> dict[str, Any]:
    """What importing the module of `build` does, observed in a process of its own, once."""
    return subject.once(f"importing {_module(subject)} by itself", lambda: _probe(_module(subject)))


def _probe(module: str) -> dict[str, Any]:
    code = PROBE.format(module=module, heavy=HEAVY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=IMPORT_SECONDS,
        )
    except subprocess.TimeoutExpired as exc:
        raise CheckError(f"no end after {IMPORT_SECONDS:g} s; do nothing at import") from exc
    if done.returncode:
        raise CheckError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return json.loads(done.stdout.splitlines()[-1])
