"""Records of a batch, shared by all runners: a job, the result of running it, and the outcome of the batch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from priorcodec.core.errors import ConfigError, PriorCodecError, out_of_memory
from priorcodec.core.io import atomic
from priorcodec.core.io.names import printable
from priorcodec.core.io.reading import standard_input

STREAM = Path("-")  # standard input as a source, standard output as a target
LINE = 1000  # characters of an error at most

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One input and its output.

    Attributes:
        source: File to read, or `STREAM`.
        target: File to write, or `STREAM`.
        problem: Why this job cannot be done, where that is known before it starts; empty otherwise.
        may_exist: Whether what is at `target` may be this job's own output, of a process that died.
    """

    source: Path
    target: Path
    problem: str = ""
    may_exist: bool = False

    def read(self) -> bytes:
        """All bytes of the input."""
        return standard_input().read() if self.source == STREAM else self.source.read_bytes()

    def target_exists(self) -> bool:
        """Whether the output is a file that exists."""
        return self.target != STREAM and os.path.isfile(self.target)


Row = dict[str, Any]
JobFn = Callable[[Job], Row]
Result = Row | PriorCodecError


class Task(Protocol):
    """The work on every file; its settings can be pickled."""

    def open(self) -> JobFn:
        """The function that does one job; called once per process. Raises PriorCodecError: settings no job can be done with."""
        ...


@dataclass(kw_only=True)
class Outcome:
    """Outcome of all jobs.

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
        if job.target != STREAM:
            atomic.make_folder(job.target.parent)
        row = function(job)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin that calls sys.exit ends its file, not the run
        return as_error(error, job.source)
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


def as_error(error: BaseException, source: Path) -> PriorCodecError:
    """Any exception of a job -> an error of this package: one line that names the file."""
    if isinstance(error, PriorCodecError):
        kind, text = type(error), str(error)
    elif out_of_memory(error):
        kind, text = PriorCodecError, "not enough memory: try a smaller --tile, fewer --workers or another --device"
    elif isinstance(error, OSError) and error.strerror:
        other = error.filename is not None and os.fspath(error.filename) != os.fspath(source)
        kind, text = PriorCodecError, f"{error.filename}: {reason(error)}" if other else reason(error)
    else:
        logger.debug("%s: %s", printable(source), type(error).__name__, exc_info=error)
        kind, text = PriorCodecError, f"unexpected {type(error).__name__}: {error}; -v shows the traceback"
    named = str(source) in text or printable(source) in text
    return kind(printable((text if named else f"{source}: {text}").replace("\n", " "), LINE))


def reason(error: OSError) -> str:
    """Why the system refused, in a few words."""
    return "no such file or folder" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
