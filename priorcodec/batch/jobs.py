"""Records of a batch run, shared by every way of running one: what to do with one file, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from priorcodec.core.errors import PriorCodecError


@dataclass(frozen=True, kw_only=True)
class Job:
    source: Path
    target: Path


Row = dict[str, Any]


Work = Callable[[Job], Row]


Result = Row | PriorCodecError


class Task(Protocol):
    """What to do with every file: settings that can be pickled."""

    def open(self) -> Work:
        """What to do with one job; called once per process. Raises PriorCodecError: settings no job can be done with."""
        ...


@dataclass(kw_only=True)
class Outcome:
    """rows: one dict per finished file, in order; failures: (file, one line)."""

    rows: list[Row] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)


def do(job: Job, work: Work) -> Result:
    """One job -> its row, or the error that names its file."""
    started = time.perf_counter()
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        row = work(job)
    except (PriorCodecError, OSError, MemoryError) as error:
        return _as_ours(error, job)
    seconds = round(time.perf_counter() - started, 3)
    return {"input": str(job.source), "output": str(job.target), **row, "seconds": seconds}


def outcome(jobs: Sequence[Job], results: Mapping[int, Result]) -> Outcome:
    """Results by index of the job, in any order. The error of a single job is raised."""
    done = Outcome()
    for index in sorted(results):
        result = results[index]
        if not isinstance(result, PriorCodecError):
            done.rows.append(result)
        elif len(jobs) == 1:
            raise result
        else:
            done.failures.append((jobs[index].source, str(result)))
    return done


def _as_ours(error: Exception, job: Job) -> PriorCodecError:
    if isinstance(error, PriorCodecError):
        return error if str(job.source) in str(error) else type(error)(f"{job.source}: {error}")
    if isinstance(error, MemoryError):
        return PriorCodecError(f"{job.source}: not enough memory for an image of this size")
    return PriorCodecError(f"{job.source}: {error}")
