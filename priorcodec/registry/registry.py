"""Loads plugins one by one: a broken one is named with its reason and stops nobody else (after datasette and tox).

candidate -load-> module -quarantine (a pluggy manager of its own)-> specs -checked-> registered for real
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from priorcodec.backbones.spec import AdapterSource, BackboneSpec
from priorcodec.core.errors import AdapterError, BackboneError, PluginWarning, PriorCodecError, WeightsError
from priorcodec.registry import adapter_sources, isolation, validation, weights
from priorcodec.registry.plugins import DEFAULT_PLUGINS, Candidate, default_candidates, installed_candidates
from priorcodec.registry.validation import Problem, Refused, one_line


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One plugin as `priorcodec plugins` shows it. problem and error are empty for a plugin that works."""

    name: str
    origin: str
    version: str = ""
    backbones: tuple[str, ...] = ()
    problem: Problem | None = None
    error: str = ""
    disabled: bool = False


class Registry:
    """The plugins of one session and what they bring. Make one with `open_registry`."""

    def __init__(self) -> None:
        self._manager = validation.new_manager()
        self._specs: dict[str, BackboneSpec] = {}
        self._records: list[PluginRecord] = []

    def add(self, candidate: Candidate) -> PluginRecord:
        """Load and check one plugin; whatever is wrong with it ends in the record, never in an exception."""
        record = PluginRecord(name=candidate.name, origin=candidate.origin, version=candidate.version)
        try:
            plugin, specs, told = validation.admit(candidate)
            self._check_names(candidate.name, specs)
        except Refused as exc:
            record = replace(record, problem=exc.problem, error=f"{exc.problem}: {exc}")
        else:
            self._manager.register(plugin, candidate.name)
            self._specs |= {spec.name: spec for spec in specs}
            record = replace(record, backbones=tuple(spec.name for spec in specs))
            if told:
                record = replace(record, problem=Problem.SIDE, error=f"{Problem.SIDE}: it {' and '.join(told)}")
        self._records.append(record)
        return record

    def skip(self, candidate: Candidate) -> None:
        """Remember a plugin that the caller does not want; it is not imported."""
        self._records.append(
            PluginRecord(name=candidate.name, origin=candidate.origin, version=candidate.version, disabled=True)
        )

    def plugins(self) -> list[PluginRecord]:
        """Every plugin that was found: working, failed and disabled ones."""
        return list(self._records)

    def specs(self) -> dict[str, BackboneSpec]:
        """All backbones by name."""
        return dict(self._specs)

    def spec(self, name: str) -> BackboneSpec:
        """The backbone of that name.

        Raises:
            BackboneError: there is none; the text names the nearest ones and the plugins that failed.
        """
        if name in self._specs:
            return self._specs[name]
        near = difflib.get_close_matches(name, self._specs, n=3, cutoff=0.5)
        text = f"no backbone {name!r}; "
        text += f"nearest: {', '.join(near)}" if near else f"known: {', '.join(self._specs) or 'none'}"
        failed = [f"{r.name} ({r.error})" for r in self._records if r.error]
        off = [r.name for r in self._records if r.disabled]
        text += f"; plugins that failed: {'; '.join(failed)}" if failed else ""
        text += f"; plugins disabled: {', '.join(off)}" if off else ""
        raise BackboneError(f"{text}; `priorcodec backbones` lists all")

    def weights(self, spec: BackboneSpec, given: str | None = None) -> Path:
        """The weights that `spec.build` takes.

        given: a local folder or file, or the id of a mirror on the Hub ("owner/repo" or "owner/repo@revision"); None
        asks the plugins, then the local caches, then the Hub at the pinned revision.

        Raises:
            WeightsError: not to be had; the one line says how to get them and under which license.
        """
        if given:
            return weights.resolve_given(spec, given)
        for found in self._ask("priorcodec_weights", spec, Path):
            return found
        raise WeightsError(weights.missing_line(spec))

    def weights_here(self, spec: BackboneSpec) -> Path | None:
        """The weights if they are on this machine already. Never downloads, so strangers' plugins are not asked."""
        ours = set(DEFAULT_PLUGINS) - {"hub"}
        found = [weights.find_local(spec), *self._ask("priorcodec_weights", spec, Path, among=ours)]
        return next((path for path in found if path is not None), None)

    def adapters(self, spec: BackboneSpec) -> list[AdapterSource]:
        """All adapters that plugins know of for `spec`."""
        return [source for sources in self._ask("priorcodec_adapters", spec, _sources) for source in sources]

    def adapter(self, spec: BackboneSpec, given: str = "default") -> Path:
        """The file of an adapter for `spec`, fetched if it is not here.

        given: a name that a plugin knows, a local file, or OWNER/REPO/FILE.safetensors@COMMIT on the Hub.
        Raises:
            AdapterError: no such name; or not to be had, see `registry.adapters.fetch`.
        """
        known = {source.name: source for source in self.adapters(spec)}
        if given in known:
            return adapter_sources.fetch(known[given])
        if adapter_sources.is_place(given):
            return adapter_sources.fetch(adapter_sources.source(given))
        raise AdapterError(
            f"backbone {spec.name} has no adapter {given!r} (known: {', '.join(known) or 'none'}): give "
            f"adapter=FILE.safetensors, or train one with `priorcodec train adapter backbone={spec.name}`"
        )

    def build(self, spec: BackboneSpec, weights: Path, *, dtype: Any) -> Any:
        """`spec.build`. What it changes in torch's switches is put back, named in `plugins()` and warned of.

        Raises:
            BackboneError: it raised something of its own; PriorCodecErrors pass.
        """
        owner = next((r.name for r in self._records if spec.name in r.backbones), spec.name)
        try:
            built, told = isolation.visit(lambda: spec.build(weights, dtype=dtype))
        except PriorCodecError:
            raise
        except (Exception, SystemExit) as exc:  # a stranger's code
            text = f"build of {spec.name} raised {type(exc).__name__}: {one_line(exc)}"
            self._fail(owner, f"{Problem.SPEC}: {text}")
            raise BackboneError(f"{text}; tell the authors of plugin {owner!r}, or take another backbone") from exc
        if told:
            text = f"build of {spec.name} {' and '.join(told)}"
            self._fail(owner, f"{Problem.SIDE}: {text}", Problem.SIDE)
            warnings.warn(PluginWarning(f"plugin {owner!r}: {text}; it was put back"), stacklevel=2)
        return built

    def _ask(
        self, hook: str, spec: BackboneSpec, read: Callable[[Any], Any], among: Collection[str] | None = None
    ) -> Iterable[Any]:
        """Call one plugin after the other in pluggy's order and read its answer, so that one that raises stops nobody else."""
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        for impl in reversed(impls):
            if among is not None and impl.plugin_name not in among:
                continue
            caller = self._manager.subset_hook_caller(hook, [other.plugin for other in impls if other is not impl])

            def ask(caller: Any = caller) -> Any:
                answer = caller(spec=spec)
                return None if answer is None else read(answer)

            try:
                answer, told = isolation.visit(ask)
            except PriorCodecError:
                raise
            except (Exception, SystemExit) as exc:  # a stranger's code
                self._fail(impl.plugin_name, f"{Problem.SPEC}: {hook} raised {type(exc).__name__}: {one_line(exc)}")
                continue
            if told:
                self._fail(impl.plugin_name, f"{Problem.SIDE}: {hook} {' and '.join(told)}", Problem.SIDE)
            if answer is not None:
                yield answer

    def _fail(self, name: str, error: str, problem: Problem = Problem.SPEC) -> None:
        self._records = [replace(r, problem=problem, error=error) if r.name == name else r for r in self._records]

    def _check_names(self, name: str, specs: list[BackboneSpec]) -> None:
        if self._manager.has_plugin(name):
            raise Refused(Problem.DUPLICATE, f"another plugin is already called {name!r}; rename the entry point")
        for spec in specs:
            taken = spec.name in self._specs or [s.name for s in specs].count(spec.name) > 1
            if taken:
                owner = next((r.name for r in self._records if spec.name in r.backbones), name)
                raise Refused(
                    Problem.DUPLICATE, f"backbone {spec.name!r} is already brought by plugin {owner!r}; rename it"
                )


def open_registry(*, disabled: Sequence[str] = ()) -> Registry:
    """Load our own plugins, then the installed ones.

    disabled: plugin or package names to leave out, besides `PRIORCODEC_DISABLE_PLUGINS` (comma separated).
    `PRIORCODEC_LOAD_PLUGINS` loads only the installed plugins it names (empty: none); ours always load.

    Raises:
        BackboneError: a plugin failed and `PRIORCODEC_STRICT_PLUGINS=1`.
    """
    unwanted = {*disabled, *_names("PRIORCODEC_DISABLE_PLUGINS")}
    only = _names("PRIORCODEC_LOAD_PLUGINS") if "PRIORCODEC_LOAD_PLUGINS" in os.environ else None
    installed = [c for c in installed_candidates() if only is None or {c.name, c.distribution} & set(only)]
    for name in only or ():
        if not any(name in (c.name, c.distribution) for c in installed):
            installed.append(
                Candidate(name=name, origin="PRIORCODEC_LOAD_PLUGINS", distribution="", version="", load=_absent)
            )
    registry = Registry()
    for candidate in [*default_candidates(), *installed]:
        if unwanted & {candidate.name, candidate.distribution}:
            registry.skip(candidate)
        else:
            registry.add(candidate)
    failed = [f"{r.name} from {r.origin} ({r.error})" for r in registry.plugins() if r.error]
    if failed and os.environ.get("PRIORCODEC_STRICT_PLUGINS", "") not in ("", "0"):
        raise BackboneError(f"PRIORCODEC_STRICT_PLUGINS is set and {len(failed)} plugins failed: {'; '.join(failed)}")
    return registry


def _sources(answers: Iterable[Iterable[Any]]) -> list[AdapterSource]:
    """What one plugin's `priorcodec_adapters` gave. Raises TypeError: not adapters."""
    sources = [source for answer in answers for source in answer]
    for source in sources:
        if not isinstance(source, AdapterSource):
            raise TypeError(f"gave {type(source).__name__}, wanted priorcodec.AdapterSource")
    return sources


def _absent() -> object:
    raise ModuleNotFoundError("no installed package offers a plugin or has that name")


def _names(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
