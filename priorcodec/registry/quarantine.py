"""A plugin is loaded and looked at here, apart from all others, before the registry takes it."""

from __future__ import annotations

import difflib
import enum

import pluggy

from priorcodec.core.contract import BackboneSpec
from priorcodec.core.errors import ApiError, BackboneError
from priorcodec.registry import hookspecs
from priorcodec.registry.markers import PROJECT
from priorcodec.registry.plugins import Candidate

HOOKS = ("priorcodec_backbones", "priorcodec_weights", "priorcodec_adapters")


class Problem(enum.StrEnum):
    """Why a plugin was not taken."""

    IMPORT = "import error"
    HOOK = "misspelt hook"
    ARGUMENT = "wrong argument"
    API = "newer API"
    DUPLICATE = "duplicate name"
    SPEC = "bad backbone"


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


def load(candidate: Candidate) -> object:
    """Import the plugin. Raises Refused."""
    try:
        return candidate.load()
    except ApiError as exc:
        raise Refused(Problem.API, one_line(exc)) from exc
    except BackboneError as exc:  # a spec that stands outside the hook
        raise Refused(Problem.SPEC, one_line(exc)) from exc
    except (Exception, SystemExit) as exc:  # a stranger's module may do anything at import
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
    except Exception as exc:  # a stranger's hook
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
