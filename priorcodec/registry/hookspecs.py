"""The three hooks a plugin can answer; docs/plugins/hooks.md explains each with an example."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pluggy

from priorcodec.backbones.spec import AdapterSource, BackboneSpec

PROJECT = "priorcodec"

hookspec = pluggy.HookspecMarker(PROJECT)  # declares a hook of this package
hookimpl = pluggy.HookimplMarker(PROJECT)  # answers one


@hookspec
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    """State the backbones this plugin brings. Called for every listing: import torch inside `build`, not here."""
    raise NotImplementedError


@hookspec(firstresult=True)
def priorcodec_weights(spec: BackboneSpec) -> Path | None:
    """Find the weights of `spec`: the folder or file its `build` takes, or None to let the next plugin try."""
    raise NotImplementedError


@hookspec
def priorcodec_adapters(spec: BackboneSpec) -> Iterable[AdapterSource]:
    """State where trained adapters of `spec` can be had; empty for backbones of no concern."""
    raise NotImplementedError
