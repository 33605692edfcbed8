"""The plugins that come with this package. They use the public door: each is a module with `@hookimpl` functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

GROUP = "priorcodec"

DEFAULT_PLUGINS = {  # plugin name -> module; first come, first named
    "nano_unet": "priorcodec.backbones.builtin.nano_unet",
    "nano_dit": "priorcodec.backbones.builtin.nano_dit",
    "sd15": "priorcodec.backbones.builtin.sd15",
    "sd21": "priorcodec.backbones.builtin.sd21",
    "sdxl": "priorcodec.backbones.builtin.sdxl",
    "pixart": "priorcodec.backbones.builtin.pixart",
    "toy": "priorcodec.backbones.builtin.toy",
    "hub": "priorcodec.registry.weights",
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plugin that could be loaded. origin: where it comes from, in words; distribution: empty for our own."""

    name: str
    origin: str
    distribution: str
    version: str
    load: Callable[[], object]


def default_candidates() -> Iterator[Candidate]:
    """Our own plugins, by module name."""
    for name, module in DEFAULT_PLUGINS.items():
        yield Candidate(name=name, origin="built in", distribution="", version="", load=_importer(module))


def installed_candidates() -> Iterator[Candidate]:
    """What installed packages offer under the entry-point group `priorcodec`, by name; nothing is imported yet."""
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        dist = point.dist
        name, version = (dist.name, dist.version) if dist else ("unknown", "")
        yield Candidate(name=point.name, origin=f"package {name}", distribution=name, version=version, load=point.load)


def _importer(module: str) -> Callable[[], object]:
    import importlib

    return lambda: importlib.import_module(module)
