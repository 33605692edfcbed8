"""Checks that a backbone keeps its contract, for plugin authors and for ours (after scikit-learn's estimator checks).

tier 0  plain data, light import                     imports no torch
tier 1  the tiny model, the full one without values  offline, CPU, seconds
tier 2  the real weights                             minutes, memory of the real model
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from priorcodec.backbones.spec import BackboneSpec
from priorcodec.core.errors import ConfigError
from priorcodec.registry import open_registry
from priorcodec.testing._run import CheckError, Result, Status, Subject, all_checks, format_results, run_check

__all__ = ["CheckError", "Result", "Status", "check_backbone", "format_results", "parametrize_backbones"]


def check_backbone(
    backbone: BackboneSpec | str,
    *,
    tier: int = 1,
    weights: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Result]:
    """Run every check up to `tier`.

    Args:
        backbone: A spec or a name in the registry.
        tier: 0 plain data, 1 the tiny model, 2 the real weights.
        weights: For tier 2: a folder, a file or OWNER/REPO@COMMIT; None takes what the registry finds.
        expected_failures: Check name -> reason. Such a check must fail; if it passes, that is reported as a failure.

    Raises:
        ConfigError: An expected failure names no check.
        BackboneError: No such backbone.
        WeightsError: Tier 2, and the weights cannot be found.
    """
    expected = _expected(expected_failures)
    subject = _subject(backbone, tier, weights)
    return [run_check(check, subject, expected.get(check.name)) for check in all_checks(tier)]


def parametrize_backbones(
    *backbones: BackboneSpec | str, tier: int = 1, expected_failures: Mapping[str, str] | None = None
) -> Callable[..., Any]:
    """Decorator: one pytest case for each backbone and check, of `def test_conformance(check): check()`."""
    import pytest

    expected = _expected(expected_failures)
    cases = []
    for backbone in backbones:
        subject = _subject(backbone, tier, None)
        for check in all_checks(tier):
            marks = ()
            if check.name in expected:
                marks = pytest.mark.xfail(strict=True, raises=CheckError, reason=expected[check.name])
            name = f"{subject.spec.name}-{check.name}"
            cases.append(pytest.param(partial(_as_test, check, subject), id=name, marks=marks))
    return pytest.mark.parametrize("check", cases)


def _as_test(check: Any, subject: Subject) -> None:
    import pytest

    result = run_check(check, subject, None)
    if result.status is Status.SKIPPED:
        pytest.skip(result.message)
    if result.status is Status.FAILED:
        raise CheckError(result.message)


def _expected(given: Mapping[str, str] | None) -> dict[str, str]:
    expected = dict(given or {})
    known = {check.name for check in all_checks()} if expected else set()
    unknown = sorted(set(expected) - known)
    if unknown:
        raise ConfigError(
            f"expected failures name no checks: {', '.join(unknown)}; checks are {', '.join(sorted(known))}"
        )
    return expected


def _subject(backbone: BackboneSpec | str, tier: int, weights: str | None) -> Subject:
    registry = open_registry()
    spec = registry.spec(backbone) if isinstance(backbone, str) else backbone
    return Subject(spec=spec, weights=registry.weights(spec, weights) if tier >= 2 else None)
