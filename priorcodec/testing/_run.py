"""One check, its subject and its result; the checks themselves are functions in the sibling modules."""

from __future__ import annotations

import enum
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


PARTS = ((0, "_plain"), (1, "_tiny"), (1, "_adapter"), (2, "_full"))


class CheckError(AssertionError):
    """The backbone breaks the contract: what was got, what was wanted."""


class SkipCheck(Exception):
    """The check does not apply to this backbone."""


class Status(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    EXPECTED = "failed as expected"


@dataclass(frozen=True, kw_only=True)
class Result:
    """message: why it failed or was skipped, or what a passing check measured; seconds: it took."""

    check: str
    tier: int
    status: Status
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """run: raises CheckError or SkipCheck; may return a line of measurements."""

    name: str
    tier: int
    summary: str
    run: Callable[[Subject], str | None]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The backbone under test, with seeded inputs that fit it."""

    spec: BackboneSpec
    weights: Path | None = None

    def tiny(self) -> Any:
        """A new tiny model, so that no check sees what another left behind."""
        return self.spec.build_tiny()

    def inputs(self, batch: int = 2, height: int = 8, width: int = 8, tokens: int = 4) -> dict[str, Any]:
        """Keyword arguments of `predict`."""
        import torch

        g = torch.Generator().manual_seed(7)
        pooled = torch.randn(batch, self.spec.pooled_dim, generator=g) if self.spec.pooled_dim else None
        return {
            "x_t": torch.randn(batch, self.spec.latent.channels, height, width, generator=g),
            "t": torch.linspace(100.0, 700.0, batch),
            "tokens": torch.randn(batch, tokens, self.spec.token_dim, generator=g),
            "pooled": pooled,
        }


def all_checks(tier: int = 2) -> list[Check]:
    """Every check up to `tier`, in the order they run; the first tier loads no torch."""
    found = []
    for level, part in PARTS:
        if level > tier:
            continue
        module = importlib.import_module(f"priorcodec.testing.{part}")
        for name, function in vars(module).items():
            if name.startswith("check_") and function.__module__ == module.__name__:
                summary = (function.__doc__ or "").splitlines()[0]
                found.append(Check(name=name.removeprefix("check_"), tier=level, summary=summary, run=function))
    return found


def run(check: Check, subject: Subject, expected: str | None) -> Result:
    """expected: the reason why this check must fail, or None."""
    start = time.perf_counter()
    status, message = Status.PASSED, ""
    try:
        message = check.run(subject) or ""
    except SkipCheck as exc:
        status, message = Status.SKIPPED, str(exc)
    except CheckError as exc:
        status, message = Status.FAILED, str(exc)
    except Exception as exc:  # a stranger's code
        status, message = Status.FAILED, f"{type(exc).__name__}: {' '.join(str(exc).split())}"
    if expected is not None and status is Status.FAILED:
        status, message = Status.EXPECTED, f"{expected} ({message})"
    elif expected is not None and status is Status.PASSED:
        status, message = Status.FAILED, f"passes, but was expected to fail: {expected}"
    seconds = time.perf_counter() - start
    return Result(check=check.name, tier=check.tier, status=status, message=message, seconds=round(seconds, 3))


def report(name: str, results: Sequence[Result], *, as_json: bool = False) -> tuple[str, bool]:
    """The text that `priorcodec check` prints, and whether all is well."""
    import json

    good = not any(r.status is Status.FAILED for r in results)
    if as_json:
        return json.dumps({"backbone": name, "passed": good, "checks": [asdict(r) for r in results]}, indent=2), good
    width = max(len(r.check) for r in results)
    lines = [f"{r.tier}  {r.check:<{width}}  {r.status}{f': {r.message}' if r.message else ''}" for r in results]
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
