"""Records of a batch run, shared by every way of running one: a job, what one run of it gives, and the outcome of all."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from priorcodec.core.errors import ConfigError, PriorCodecError

STDIN, STDOUT = Path("/dev/stdin"), Path("/dev/stdout")  # stand for "-"; never opened by these names

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One input and its output.

    Attributes:
        source: File to read; `STDIN` for standard input.
        target: File to write; `STDOUT` for standard output.
        problem: Why this job cannot be done, where that is known before it starts; empty otherwise.
    """

    source: Path
    target: Path
    problem: str = ""

    def read(self) -> bytes:
        """All bytes of the input."""
        return sys.stdin.buffer.read() if self.source == STDIN else self.source.read_bytes()

    def target_exists(self) -> bool:
        """Whether the output is a file that is there already."""
        return self.target != STDOUT and os.path.isfile(self.target)


Row = dict[str, Any]
JobFn = Callable[[Job], Row]
Result = Row | PriorCodecError


class Task(Protocol):
    """What to do with every file: settings that can be pickled."""

    def open(self) -> JobFn:
        """The function that does one job; called once per process. Raises PriorCodecError: settings no job can be done with."""
        ...


@dataclass(kw_only=True)
class Outcome:
    """What came of all jobs.

    Attributes:
        rows: One dict per finished file, in the order of the jobs.
        failures: (input, one line) for each of the others.
    """

    rows: list[Row] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)


def run_job(job: Job, function: JobFn) -> Result:
    """Do one job. Whatever it raises becomes an error of one line that names its file."""
    started = time.perf_counter()
    try:
        if job.problem:
            raise ConfigError(job.problem)
        if job.target != STDOUT:
            job.target.parent.mkdir(parents=True, exist_ok=True)
        row = function(job)
    except Exception as error:
        return as_error(error, job.source)
    seconds = round(time.perf_counter() - started, 3)
    return {"input": label(job.source), "output": label(job.target), **row, "seconds": seconds}


def label(path: Path) -> str:
    """How a path is shown: "-" for standard input and output."""
    return "-" if path in (STDIN, STDOUT) else str(path)


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


def as_error(error: Exception, source: Path) -> PriorCodecError:
    """Any exception of a job -> an error of this package: one line that names the file."""
    if isinstance(error, PriorCodecError):
        kind, text = type(error), str(error)
    elif out_of_memory(error):
        kind, text = PriorCodecError, "not enough memory: try a smaller --tile, fewer --workers or another --device"
    elif isinstance(error, OSError) and error.strerror:
        other = error.filename is not None and os.fspath(error.filename) != os.fspath(source)
        kind, text = PriorCodecError, f"{error.filename}: {error.strerror}" if other else error.strerror
    else:
        logger.debug("%s: %s", label(source), type(error).__name__, exc_info=error)
        kind, text = PriorCodecError, f"unexpected {type(error).__name__}: {error}; -v shows the traceback"
    text = text if str(source) in text else f"{label(source)}: {text}"
    return kind("\\n".join(text.splitlines()))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out.

    On the CPU torch raises a plain RuntimeError that only its text tells apart; `torch.OutOfMemoryError` is one of its own.
    """
    texts = ("can't allocate memory", "DefaultCPUAllocator", "out of memory", "not enough memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(text in str(error) for text in texts))
    )
