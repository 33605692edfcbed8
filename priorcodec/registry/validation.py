"""A plugin is loaded and looked at here, apart from all others, before the registry takes it."""

from __future__ import annotations

import difflib
import enum
import os
import threading

import pluggy

from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core.errors import ApiError, BackboneError, ConfigError
from priorcodec.registry import hookspecs, isolation
from priorcodec.registry.hookspecs import PROJECT
from priorcodec.registry.plugins import Candidate

SECONDS = (
    5.0  # for a plugin's import and its list of backbones, which load nothing heavy; PRIORCODEC_PLUGIN_SECONDS moves it
)
HOOKS = ("priorcodec_backbones", "priorcodec_weights", "priorcodec_adapters")


class Problem(enum.StrEnum):
    """Why a plugin was not taken."""

    IMPORT = "import error"
    HOOK = "misspelt hook"
    ARGUMENT = "wrong argument"
    API = "newer API"
    DUPLICATE = "duplicate name"
    SPEC = "bad backbone"
    SIDE = "side effect"


class Refused(Exception):
    """A plugin that is not taken, and why."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem


def new_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows our hooks and nobody else."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def admit(candidate: Candidate) -> tuple[object, list[BackboneSpec], list[str]]:
    """Load a plugin and ask it -> the plugin, its backbones, and what it did besides. Raises Refused."""

    def ask() -> tuple[object, list[BackboneSpec]]:
        plugin = load(candidate)
        return plugin, inspect(candidate.name, plugin)

    seconds = _seconds()
    try:
        (plugin, specs), told = isolation.visit_briefly(ask, seconds)
    except isolation.Late as exc:
        raise Refused(
            Problem.IMPORT, f"not imported and asked within {seconds:g} s; PRIORCODEC_PLUGIN_SECONDS gives it longer"
        ) from exc
    return plugin, specs, told


def _seconds() -> float:
    given = os.environ.get("PRIORCODEC_PLUGIN_SECONDS", "")
    try:
        seconds = float(given or SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise ConfigError(f"PRIORCODEC_PLUGIN_SECONDS is {given!r}, wanted a number of seconds above 0")
    return seconds


def load(candidate: Candidate) -> object:
    """Import the plugin. Raises Refused."""
    try:
        return candidate.load()
    except ApiError as exc:
        raise Refused(Problem.API, one_line(exc)) from exc
    except BackboneError as exc:  # a spec that stands outside the hook
        raise Refused(Problem.SPEC, one_line(exc)) from exc
    except BaseException as exc:  # a stranger's module may do anything at import; this is not the thread Ctrl-C reaches
        raise Refused(Problem.IMPORT, f"{type(exc).__name__}: {one_line(exc)}") from exc


def inspect(name: str, plugin: object) -> list[BackboneSpec]:
    """The backbones that a plugin brings, asked in a manager of its own. Raises Refused."""
    manager = new_manager()
    try:
        manager.register(plugin, name)
    except pluggy.PluginValidationError as exc:
        raise Refused(Problem.ARGUMENT, one_line(exc)) from exc
    except ValueError as exc:
        raise Refused(Problem.SPEC, one_line(exc)) from exc
    _check_hook_names(manager, plugin)
    return _collect(manager)


def _check_hook_names(manager: pluggy.PluginManager, plugin: object) -> None:
    callers = manager.get_hookcallers(plugin) or []
    known = {caller.name for caller in callers}
    unmarked = [n for n in dir(plugin) if n.startswith(f"{PROJECT}_") and n not in known]
    for name in [*(c.name for c in callers if not c.has_spec()), *unmarked]:
        if name in HOOKS:
            raise Refused(Problem.HOOK, f"{name} is not marked with @priorcodec.hookimpl")
        near = difflib.get_close_matches(name, HOOKS, n=1) or HOOKS
        raise Refused(Problem.HOOK, f"there is no hook {name!r}; nearest: {', '.join(near)}")
    if not callers:
        raise Refused(Problem.HOOK, f"it answers none of the hooks {', '.join(HOOKS)}")


def _collect(manager: pluggy.PluginManager) -> list[BackboneSpec]:
    try:
        specs = [spec for answer in manager.hook.priorcodec_backbones() for spec in answer]
    except ApiError as exc:
        raise Refused(Problem.API, one_line(exc)) from exc
    except (Exception, SystemExit) as exc:  # a stranger's hook
        raise Refused(Problem.SPEC, f"priorcodec_backbones raised {type(exc).__name__}: {one_line(exc)}") from exc
    for spec in specs:
        if not isinstance(spec, BackboneSpec):
            raise Refused(
                Problem.SPEC, f"priorcodec_backbones gave {type(spec).__name__}, wanted priorcodec.BackboneSpec"
            )
    return specs


def one_line(exc: BaseException) -> str:
    """An exception's text without line breaks."""
    return " ".join(str(exc).split())
