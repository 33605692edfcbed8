"""One check, its subject and its result; the checks themselves are functions in the sibling modules."""

from __future__ import annotations

import contextlib
import enum
import importlib
import inspect
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PARTS = ((0, "_plain"), (1, "_tiny"), (1, "_calls"), (1, "_counts"), (1, "_adapter"), (2, "_full"), (2, "_denoising"))
ON_THE_REAL_MODEL = (  # tier-1 checks that tier 2 repeats as real_NAME
    *("side_effects", "frozen", "predict_shape", "odd_sizes", "deterministic", "batch_invariance", "conditions_matter"),
    *("gradients", "alpha_bar", "pixels", "pixel_space", "fusion_sites"),
)
METHOD = re.compile(r"\b(alpha_bar|predict|to_latents|to_pixels|build_tiny|build)\(")
BUILTIN = "priorcodec.backbones.builtin."
LIBRARIES = {
    "priorcodec",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    *sys.stdlib_module_names,
}


class CheckError(AssertionError):
    """The backbone breaks the contract: what was got, what was wanted."""


class SkipCheck(Exception):
    """The check does not apply to this backbone, or what it needs failed and was reported already."""


class Status(enum.StrEnum):
    """Outcome of one check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    EXPECTED = "failed as expected"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Outcome of one check.

    Attributes:
        check: Name of the check.
        tier: Its tier, 0 to 2.
        status: The outcome.
        message: Why it failed or was skipped, or what a passing check measured, in one line.
        seconds: Time it took.
        traceback: Of the exception that ended it; empty when the check itself found the fault.
    """

    check: str
    tier: int
    status: Status
    message: str = ""
    seconds: float = 0.0
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        name: As listed and as expected failures name it.
        tier: 0 plain data, 1 the tiny model, 2 the real weights.
        summary: What it requires, in one sentence.
        run: Raises CheckError or SkipCheck; may return a line of measurements.
    """

    name: str
    tier: int
    summary: str
    run: Callable[[Subject], str | None]


@dataclass(kw_only=True, eq=False)
class Subject:
    """The backbone under test, with seeded inputs that fit it. What is built is built once, or fails once.

    Attributes:
        spec: The backbone.
        weights: Its real weights, for tier 2.
    """

    spec: BackboneSpec
    weights: Path | None = None
    _made: dict[str, Any] = field(default_factory=dict, repr=False)
    _failed: set[str] = field(default_factory=set, repr=False)
    _last: Any = field(default=None, repr=False)
    builder = "build_tiny"

    def tiny(self) -> Any:
        """A new tiny model, so that no check sees what another left behind."""
        return self.attempt("build_tiny()", self.spec.build_tiny)

    def on_the_real_model(self) -> Subject:
        """The same subject for a check of tier 1, which then sees the real model in the tiny one's place."""
        return _RealSubject(
            spec=self.spec, weights=self.weights, _made=self._made, _failed=self._failed, _last=self._last
        )

    def full(self) -> Any:
        """The full architecture without weights, on torch's meta device, in bfloat16."""
        import torch

        def build() -> Any:
            with torch.device("meta"):
                return self.spec.build(None, dtype=torch.bfloat16)

        return self.once("build(None, dtype=torch.bfloat16) on the meta device", build)

    def real(self) -> Any:
        """The model with its real weights, in float32."""
        import torch

        return self.once("build() with the real weights", lambda: self.spec.build(self.weights, dtype=torch.float32))

    def once(self, what: str, make: Callable[[], Any]) -> Any:
        """The result of `make`, called for the first check that needs it."""
        if what not in self._made:
            self._made[what] = self.attempt(what, make)
        return self._made[what]

    def attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """Call `make`. If it raises, the first check that needs it fails with that exception and later ones are skipped."""
        if what in self._failed:
            raise SkipCheck(f"{what} failed, as reported above")
        try:
            result = make()
            self._last = result if hasattr(result, "predict") else self._last
            return result
        except SkipCheck:
            raise
        except CheckError as exc:
            self._failed.add(what)
            raise CheckError(f"{what}: {exc}") from exc.__cause__
        except (Exception, SystemExit) as exc:  # third-party code
            self._failed.add(what)
            raise CheckError(f"{what} raised {describe(exc)}") from exc

    def inputs(self, batch: int = 2, height: int = 8, width: int = 8, tokens: int = 4) -> dict[str, Any]:
        """Keyword arguments of `predict`."""
        import torch

        from priorcodec.backbones.conditions import make_condition

        values = partial(torch.randn, generator=torch.Generator().manual_seed(7))
        x_t = values(batch, self.spec.latent.channels, height, width)
        condition = make_condition(self.spec, x_t, tokens=tokens, values=values)
        return {"x_t": x_t, "t": torch.linspace(100.0, 700.0, batch), "condition": condition}

    def where(self, message: str) -> str:
        """File and line of the first method of the backbone that a message names; empty if it names none."""
        method = METHOD.search(message)
        if method is None:
            return ""
        home = self.spec if method[1].startswith("build") else self._last
        function = getattr(home, method[1], None)
        if function is None:
            return ""
        function = inspect.unwrap(function)
        code = getattr(function, "__code__", None) or getattr(getattr(function, "__func__", None), "__code__", None)
        return f" ({Path(code.co_filename).name}, line {code.co_firstlineno})" if code else ""


class _RealSubject(Subject):
    """A subject whose tiny model is the real one, built once."""

    builder = "build"

    def tiny(self) -> Any:
        return self.real()


def all_checks(tier: int = 2) -> list[Check]:
    """Every check up to `tier`, in the order they run; tier 0 imports no torch."""
    found = []
    for level, part in PARTS:
        if level > tier:
            continue
        module = importlib.import_module(f"priorcodec.testing.{part}")
        for name, function in vars(module).items():
            if name.startswith("check_") and function.__module__ == module.__name__:
                summary = (function.__doc__ or "").partition("\n")[0]
                found.append(Check(name=name.removeprefix("check_"), tier=level, summary=summary, run=function))
    if tier < 2:
        return found
    known = {check.name: check for check in found}
    below, above = ([check for check in found if (check.tier < 2) == lower] for lower in (True, False))
    # Before the others of tier 2: they see the model being built.
    return below + [_repeated(known[name]) for name in ON_THE_REAL_MODEL] + above


def _repeated(check: Check) -> Check:
    def run(subject: Subject) -> str | None:
        return check.run(subject.on_the_real_model())

    return Check(name=f"real_{check.name}", tier=2, summary=f"As `{check.name}`, on the real model.", run=run)


def run_check(check: Check, subject: Subject, expected: str | None = None) -> Result:
    """Run one check. expected: the reason why it must fail, or None."""
    start = time.perf_counter()
    status, message, trace = Status.PASSED, "", ""
    try:
        with _one_thread() if check.tier == 1 else contextlib.nullcontext():
            message = check.run(subject) or ""
    except SkipCheck as exc:
        status, message = Status.SKIPPED, str(exc)
    except CheckError as exc:
        status, message = Status.FAILED, str(exc)
        message += "" if ", line " in message else subject.where(message)
        trace = "" if exc.__cause__ is None else "".join(traceback.format_exception(exc.__cause__))
    except (Exception, SystemExit) as exc:  # third-party code
        status, message, trace = Status.FAILED, describe(exc), "".join(traceback.format_exception(exc))
    if expected is not None and status is Status.FAILED:
        status, message = Status.EXPECTED, f"{expected} ({message})"
    elif expected is not None and status is Status.PASSED:
        status, message = Status.FAILED, f"passes, but was expected to fail: {expected}"
    seconds = round(time.perf_counter() - start, 3)
    return Result(check=check.name, tier=check.tier, status=status, message=message, seconds=seconds, traceback=trace)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more threads, which only wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(exc: BaseException) -> str:
    """An exception in one line, with the file and line of the plugin's own code that it came through last."""
    frames = list(traceback.walk_tb(exc.__traceback__))
    own = [(frame, line) for frame, line in frames if _is_plugin(frame.f_globals.get("__name__", ""))]
    text = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
    if not frames:
        return text
    frame, line = (own or frames)[-1]
    return f"{text} ({Path(frame.f_code.co_filename).name}, line {line})"


def _is_plugin(module: str) -> bool:
    return module.startswith(BUILTIN) or module.partition(".")[0] not in LIBRARIES


def format_results(
    name: str, results: Sequence[Result], *, as_json: bool = False, tracebacks: bool = False
) -> tuple[str, bool]:
    """The text that `priorcodec check` prints, and whether no check failed."""
    import json

    good = not any(r.status is Status.FAILED for r in results)
    if as_json:
        return json.dumps({"backbone": name, "passed": good, "checks": [asdict(r) for r in results]}, indent=2), good
    width = max(len(r.check) for r in results)
    lines = []
    for r in results:
        lines.append(f"{r.tier}  {r.check:<{width}}  {r.status}{f': {r.message}' if r.message else ''}")
        lines += r.traceback.rstrip().splitlines() if tracebacks and r.traceback else []
    count = {status: sum(r.status is status for r in results) for status in Status}
    lines.append(f"{name}: " + ", ".join(f"{n} {status}" for status, n in count.items() if n))
    return "\n".join(lines), good


def require(condition: bool, message: str) -> None:
    """Raises CheckError(message) unless `condition`."""
    if not condition:
        raise CheckError(message)


def require_shape(what: str, got: Tensor, wanted: Sequence[int]) -> None:
    """Raises CheckError on another shape or on values that are not finite."""
    require(tuple(got.shape) == tuple(wanted), f"{what} has shape {tuple(got.shape)}, wanted {tuple(wanted)}")
    require(bool(got.isfinite().all()), f"{what} has values that are not finite")


def require_equal(what: str, got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 0.0) -> None:
    """Raises CheckError when the largest difference is above `tolerance` (0: not one bit)."""
    worst = (got.double() - wanted.double()).abs().max().item() if got.numel() else 0.0
    require(worst <= tolerance, f"{what}: differs by {worst:.3g}, wanted at most {tolerance:.3g}")
