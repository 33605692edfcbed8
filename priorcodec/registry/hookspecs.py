"""The three hooks that a plugin may implement; docs/plugins/hooks.md explains each with an example."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pluggy

from priorcodec.backbones.spec import AdapterSource, BackboneSpec

PROJECT = "priorcodec"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def priorcodec_backbones() -> Iterable[BackboneSpec]:
    """List the backbones of this plugin. Called for every listing: import torch inside `build`, not here."""
    raise NotImplementedError


@hookspec(firstresult=True)
def priorcodec_weights(spec: BackboneSpec, download: bool) -> Path | None:
    """Find the weights of `spec`.

    Args:
        spec: The backbone whose weights are wanted, from any plugin.
        download: False for a listing: look on this machine only. An implementation that never downloads may omit it.

    Returns:
        The folder or file that `spec.build` takes, or None to let the next plugin try.
    """
    raise NotImplementedError


@hookspec
def priorcodec_adapters(spec: BackboneSpec) -> Iterable[AdapterSource]:
    """List the trained adapters of `spec` that this plugin knows of; empty for a backbone it has none for."""
    raise NotImplementedError
