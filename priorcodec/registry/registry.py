"""The loaded plugins and what they provide. A plugin that fails is kept with its reason and does not stop the others.

Candidate --load_plugin, validate_plugin--> specs --no name taken?--> registered; weights and adapters by hooks
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from priorcodec.adapters import hub
from priorcodec.backbones.spec import METHODS, AdapterSource, BackboneSpec
from priorcodec.core.errors import AdapterError, BackboneError, ConfigError, PriorCodecError, WeightsError
from priorcodec.core.io.names import one_line
from priorcodec.registry import adapter_sources, weights
from priorcodec.registry.plugins import (
    Candidate,
    PluginRejected,
    Problem,
    default_candidates,
    installed_candidates,
    load_plugin,
    new_manager,
    validate_plugin,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One plugin as `priorcodec plugins` lists it.

    Attributes:
        name: Name of its entry point.
        origin: Where it comes from, as shown to users.
        version: Version of its package; empty for a built-in plugin.
        backbones: Names of the backbones it provides.
        problem: Kind of fault; None for a plugin that works.
        error: The fault in one line; empty for a plugin that works.
        disabled: Whether it was left out on request, and so not imported.
    """

    name: str
    origin: str
    version: str = ""
    backbones: tuple[str, ...] = ()
    problem: Problem | None = None
    error: str = ""
    disabled: bool = False


class Registry:
    """A set of plugins and what they provide, independent of every other registry. Made by `open_registry`."""

    def __init__(self) -> None:
        self._manager = new_manager()
        self._specs: dict[str, BackboneSpec] = {}
        self._records: list[PluginRecord] = []

    def add(self, candidate: Candidate, *, disabled: bool = False) -> PluginRecord:
        """Load one plugin, or only list it as disabled. Whatever is wrong with it ends in the record, never in an exception."""
        record = PluginRecord(
            name=candidate.name, origin=candidate.origin, version=candidate.version, disabled=disabled
        )
        try:
            if not disabled:
                plugin = load_plugin(candidate)
                specs = validate_plugin(candidate.name, plugin)
                self._check_names(candidate.name, specs)
                self._register(candidate.name, plugin)
                self._specs |= {spec.name: spec for spec in specs}
                record = replace(record, backbones=tuple(spec.name for spec in specs))
        except PluginRejected as exc:
            record = replace(record, problem=exc.problem, error=f"{exc.problem}: {exc}")
        self._records.append(record)
        return record

    def plugins(self) -> list[PluginRecord]:
        """Every plugin that was found: working, failed and disabled ones."""
        return list(self._records)

    def specs(self) -> dict[str, BackboneSpec]:
        """All backbones by name."""
        return dict(self._specs)

    def spec(self, name: str) -> BackboneSpec:
        """Return the backbone of that name.

        Raises:
            BackboneError: There is none; the text names the nearest ones and the plugins that failed.
        """
        if name in self._specs:
            return self._specs[name]
        near = difflib.get_close_matches(name.lower(), self._specs, n=3, cutoff=0.5)
        text = f"no backbone {name!r}; "
        text += f"nearest: {', '.join(near)}" if near else f"known: {', '.join(self._specs) or 'none'}"
        failed = [f"{r.name} ({r.error})" for r in self._records if r.error]
        disabled = [r.name for r in self._records if r.disabled]
        text += f"; plugins that failed: {'; '.join(failed)}" if failed else ""
        text += f"; plugins disabled: {', '.join(disabled)}" if disabled else ""
        raise BackboneError(f"{text}; `priorcodec backbones` lists all")

    def weights(self, spec: BackboneSpec, given: str | None = None) -> Path:
        """Find or download the weights that `spec.build` takes.

        Args:
            spec: The backbone.
            given: A local folder or file, or a mirror on the Hub, "OWNER/REPO@COMMIT". None asks the plugins, then looks in
                the local folders and caches, then downloads from the Hub at the pinned commit.

        Raises:
            WeightsError: Not found; the text says how to get them and under which license.
        """
        if given:
            return weights.resolve_given(spec, given)
        found = next(self._call("priorcodec_weights", _existing, spec=spec, download=True), None)
        if found is None:
            raise WeightsError(weights.missing_line(spec))
        return found

    def local_weights(self, spec: BackboneSpec) -> Path | None:
        """The weights if they are on this machine. Downloads nothing.

        Raises:
            WeightsError: They are here but damaged or incomplete.
        """
        return next(self._call("priorcodec_weights", _existing, spec=spec, download=False), None)

    def adapters(self, spec: BackboneSpec) -> list[AdapterSource]:
        """All adapters for `spec` that plugins know of."""
        return [source for sources in self._call("priorcodec_adapters", _sources, spec=spec) for source in sources]

    def adapter(self, spec: BackboneSpec, given: str = "default") -> Path:
        """Find or download the file of an adapter for `spec`.

        Args:
            spec: The backbone.
            given: A name that a plugin knows, a local file, a folder with BACKBONE.adapter.safetensors, as training writes it, or
                OWNER/REPO/FILE.safetensors@COMMIT on the Hub.

        Raises:
            AdapterError: No such name, or as `adapter_sources.fetch` raises it.
        """
        known = {source.name: source for source in self.adapters(spec)}
        if given in known:
            return adapter_sources.fetch(known[given])
        if os.path.isdir(os.path.expanduser(given)):
            return hub.locate(given, hub.file_name(spec.name), None)
        if adapter_sources.is_location(given):
            return adapter_sources.fetch(adapter_sources.source(given))
        raise AdapterError(
            f"backbone {spec.name} has no adapter {given!r} (known: {', '.join(known) or 'none'}): give "
            "the path of a .safetensors file, or train one with "
            f"`priorcodec train adapter backbone={spec.name} data=IMAGES run=FOLDER`"
        )

    def probe(self) -> None:
        """Call the hooks that normally run when an image is decoded, so that `plugins` lists those that fail."""
        for spec in self._specs.values():
            self.adapters(spec)
            with contextlib.suppress(WeightsError):
                list(self._call("priorcodec_weights", Path, spec=spec, download=False))

    def build(self, spec: BackboneSpec, weights: Path | None, *, dtype: Any, tiny: bool = False) -> Any:
        """Call `spec.build`, or `spec.build_tiny` for a dry run.

        Raises:
            BackboneError: It raised something that is not a PriorCodecError (those pass through), or built no backbone.
        """
        try:
            built = spec.build_tiny() if tiny else spec.build(weights, dtype=dtype)
            for wanted in ("module", "to", *METHODS):
                if not hasattr(built, wanted):
                    raise TypeError(f"gave {type(built).__name__} without {wanted}, wanted a priorcodec.Backbone")
            return built
        except PriorCodecError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # third-party code
            owner = next((r.name for r in self._records if spec.name in r.backbones), spec.name)
            text = f"{'build_tiny' if tiny else 'build'} of {spec.name} raised {type(exc).__name__}: {one_line(exc)}"
            self._fail(owner, text)
            raise BackboneError(f"{text}; report it to the authors of plugin {owner!r}") from exc

    def _call(self, hook: str, read: Callable[[Any], Any], **arguments: Any) -> Iterator[Any]:
        """Call a hook of one plugin after the other, in pluggy's order, and read each answer that is not None.

        One at a time, because pluggy's own call stops at the first plugin that raises.
        """
        for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            try:
                answer = impl.function(*(arguments[name] for name in impl.argnames))
                answer = None if answer is None else read(answer)
            except KeyboardInterrupt:
                raise
            except BaseException as exc:  # third-party code
                if hook == "priorcodec_weights" and isinstance(exc, WeightsError):
                    raise  # it says what is wrong with the user's files
                self._fail(impl.plugin_name, f"{hook} raised {type(exc).__name__}: {one_line(exc)}")
                continue
            if answer is not None:
                yield answer

    def _fail(self, name: str, error: str) -> None:
        log.warning("plugin %s: %s", name, error)
        failed = {"problem": Problem.SPEC, "error": f"{Problem.SPEC}: {error}"}
        self._records = [replace(r, **failed) if r.name == name else r for r in self._records]

    def _register(self, name: str, plugin: object) -> None:
        try:
            self._manager.register(plugin, name)
        except ValueError as exc:  # pluggy's word for an object that it has
            raise PluginRejected(
                Problem.DUPLICATE, "its object is registered under another name; remove one entry point"
            ) from exc

    def _check_names(self, name: str, specs: list[BackboneSpec]) -> None:
        if self._manager.has_plugin(name):
            raise PluginRejected(
                Problem.DUPLICATE, f"another plugin is already called {name!r}; rename the entry point"
            )
        for spec in specs:
            if spec.name in self._specs or [other.name for other in specs].count(spec.name) > 1:
                owner = next((r.name for r in self._records if spec.name in r.backbones), name)
                raise PluginRejected(
                    Problem.DUPLICATE, f"backbone {spec.name!r} is already provided by plugin {owner!r}; rename it"
                )


def open_registry(*, disabled: Sequence[str] = ()) -> Registry:
    """Load the built-in plugins, then the installed ones.

    `PRIORCODEC_LOAD_PLUGINS` (comma separated) loads only the installed plugins it names, none when it is empty; the built-in
    ones are always loaded.

    Args:
        disabled: Plugin or package names to leave out, in addition to those in `PRIORCODEC_DISABLE_PLUGINS`.

    Raises:
        ConfigError: `disabled` names a plugin that is not installed.
        BackboneError: A plugin failed and `PRIORCODEC_STRICT_PLUGINS=1`.
    """
    unwanted = {*disabled, *_names("PRIORCODEC_DISABLE_PLUGINS")}
    registry, candidates = Registry(), [*default_candidates(), *_installed()]
    known = dict.fromkeys(name for candidate in candidates for name in (candidate.name, candidate.distribution) if name)
    if unknown := [name for name in disabled if name not in known]:
        raise ConfigError(f"no plugin {unknown[0]!r} to leave out; known: {', '.join(known)}")
    for name in unwanted.difference(known):
        log.warning("PRIORCODEC_DISABLE_PLUGINS names %s, which is not installed; known: %s", name, ", ".join(known))
    for candidate in candidates:
        registry.add(candidate, disabled=bool(unwanted & {candidate.name, candidate.distribution}))
    if os.environ.get("PRIORCODEC_STRICT_PLUGINS", "") in ("", "0"):
        return registry
    registry.probe()
    failed = [f"{r.name} from {r.origin} ({r.error})" for r in registry.plugins() if r.error]
    if failed:
        count = f"{len(failed)} plugin{'s' if failed[1:] else ''}"
        raise BackboneError(f"PRIORCODEC_STRICT_PLUGINS is set and {count} failed: {'; '.join(failed)}")
    return registry


def _installed() -> list[Candidate]:
    found = list(installed_candidates())
    if "PRIORCODEC_LOAD_PLUGINS" not in os.environ:
        return found
    wanted = _names("PRIORCODEC_LOAD_PLUGINS")
    absent = [name for name in wanted if not any(name in (c.name, c.distribution) for c in found)]
    return [
        *(c for c in found if {c.name, c.distribution} & set(wanted)),
        *(Candidate(name=name, origin="PRIORCODEC_LOAD_PLUGINS", load=_raise_absent) for name in absent),
    ]


def _existing(answer: Any) -> Path:
    """A path that `priorcodec_weights` gave. Raises WeightsError: nothing is there."""
    path = Path(answer)
    if not path.exists():
        raise WeightsError(f"{path}, which a plugin gives as the weights, does not exist")
    return path


def _sources(answer: Iterable[Any]) -> list[AdapterSource]:
    """Read an answer to `priorcodec_adapters`. Raises TypeError: these are no adapters."""
    sources = list(answer)
    for source in sources:
        if not isinstance(source, AdapterSource):
            raise TypeError(f"gave {type(source).__name__}, wanted priorcodec.AdapterSource")
    return sources


def _raise_absent() -> object:
    raise ModuleNotFoundError("no installed package offers a plugin or has that name")


def _names(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
