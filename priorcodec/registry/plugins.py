"""Finds, imports and checks plugins one at a time, built-in and installed ones alike (after datasette's `plugins.py`).

entry point -> Candidate --load_plugin--> module --validate_plugin--> its backbones; PluginRejected names what is wrong
"""

from __future__ import annotations

import difflib
import enum
import functools
import importlib
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

import pluggy

from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core.errors import ApiError, BackboneError
from priorcodec.core.io.names import one_line
from priorcodec.registry import hookspecs
from priorcodec.registry.hookspecs import PROJECT

GROUP = "priorcodec"
HOOKS = ("priorcodec_backbones", "priorcodec_weights", "priorcodec_adapters")
DEFAULT_PLUGINS = {  # plugin name -> module, in the order of listings
    "nano_pixel": "priorcodec.backbones.builtin.nano_pixel",
    "nano_dit": "priorcodec.backbones.builtin.nano_dit",
    "sd15": "priorcodec.backbones.builtin.sd15",
    "sd21": "priorcodec.backbones.builtin.sd21",
    "sdxl": "priorcodec.backbones.builtin.sdxl",
    "pixart": "priorcodec.backbones.builtin.pixart",
    "toy": "priorcodec.backbones.builtin.toy",
    "hub": "priorcodec.registry.weights",
}
log = logging.getLogger(__name__)


class Problem(enum.StrEnum):
    """Why a plugin was rejected."""

    IMPORT = "import error"
    HOOK = "misspelled hook"
    ARGUMENT = "wrong argument"
    API = "other API version"
    DUPLICATE = "duplicate name"
    SPEC = "bad backbone"


class PluginRejected(Exception):
    """A plugin that the registry does not take.

    Attributes:
        problem: The kind of fault; the exception's text says what exactly is wrong.
    """

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plugin that can be imported.

    Attributes:
        name: Name of the entry point.
        origin: Where the plugin comes from, as shown to users.
        distribution: Name of the installed package; empty for a built-in plugin.
        version: Version of that package.
        load: Imports the plugin and returns it.
    """

    name: str
    origin: str
    distribution: str = ""
    version: str = ""
    load: Callable[[], object]


def default_candidates() -> Iterator[Candidate]:
    """The plugins of this package."""
    for name, module in DEFAULT_PLUGINS.items():
        yield Candidate(name=name, origin="built in", load=functools.partial(importlib.import_module, module))


def installed_candidates() -> Iterator[Candidate]:
    """The entry points of installed packages in the group `priorcodec`, by name. Nothing is imported yet."""
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        package, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "")
        yield Candidate(
            name=point.name, origin=f"package {package}", distribution=package, version=version, load=point.load
        )


def new_manager() -> pluggy.PluginManager:
    """A pluggy manager with our hooks and no plugins."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def load_plugin(candidate: Candidate) -> object:
    """Import a plugin. Raises PluginRejected."""
    log.debug("importing plugin %s from %s", candidate.name, candidate.origin)
    try:
        return candidate.load()
    except ApiError as exc:
        raise PluginRejected(Problem.API, one_line(exc)) from exc
    except BackboneError as exc:  # a malformed spec at module level
        raise PluginRejected(Problem.SPEC, one_line(exc)) from exc
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # third-party code
        raise PluginRejected(Problem.IMPORT, f"{type(exc).__name__}: {one_line(exc)}") from exc


def validate_plugin(name: str, plugin: object) -> list[BackboneSpec]:
    """Check a plugin's hooks in a manager of its own. Returns its backbones. Raises PluginRejected."""
    manager = new_manager()
    try:
        manager.register(plugin, name)
    except pluggy.PluginValidationError as exc:
        raise PluginRejected(Problem.ARGUMENT, one_line(exc)) from exc
    except ValueError as exc:
        raise PluginRejected(Problem.SPEC, one_line(exc)) from exc
    _check_hooks(manager, plugin)
    try:
        answers = manager.hook.priorcodec_backbones()
        if any(isinstance(answer, BackboneSpec) for answer in answers):
            raise TypeError("gave one priorcodec.BackboneSpec, wanted a list of them")
        specs = [spec for answer in answers for spec in answer]
    except ApiError as exc:
        raise PluginRejected(Problem.API, one_line(exc)) from exc
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # third-party code
        raise PluginRejected(
            Problem.SPEC, f"priorcodec_backbones raised {type(exc).__name__}: {one_line(exc)}"
        ) from exc
    for spec in specs:
        if not isinstance(spec, BackboneSpec):
            raise PluginRejected(
                Problem.SPEC, f"priorcodec_backbones gave {type(spec).__name__}, wanted priorcodec.BackboneSpec"
            )
    return specs


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Every hook has a name and a form that is called; a function named like a hook is marked as one."""
    callers = manager.get_hookcallers(plugin) or []
    known = {caller.name for caller in callers}
    unmarked = [
        name
        for name in dir(plugin)
        if name.startswith(f"{PROJECT}_") and name not in known and inspect.isroutine(getattr(plugin, name, None))
    ]
    for name in [*(caller.name for caller in callers if not caller.has_spec()), *unmarked]:
        if name in HOOKS:
            raise PluginRejected(Problem.HOOK, f"{name} is not marked with @priorcodec.hookimpl")
        near = difflib.get_close_matches(name, HOOKS, n=1) or HOOKS
        raise PluginRejected(Problem.HOOK, f"there is no hook {name!r}; nearest: {', '.join(near)}")
    for impl in (impl for caller in callers for impl in caller.get_hookimpls()):
        if impl.wrapper or impl.hookwrapper:
            raise PluginRejected(Problem.HOOK, f"{impl.function.__name__} is a hook wrapper, wanted a plain @hookimpl")
    if not callers:
        raise PluginRejected(Problem.HOOK, f"it implements none of the hooks {', '.join(HOOKS)}")
