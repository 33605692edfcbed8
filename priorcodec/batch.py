"""Many files through one function: what goes in, where it comes out, a bar while it lasts, and nobody stopped by one bad file."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from priorcodec.core.errors import ConfigError, PriorCodecError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff")


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


def plan(
    inputs: Sequence[Path], output: Path | None, *, suffixes: Sequence[str], name: Callable[[Path], str], force: bool
) -> list[Job]:
    """Pair every input file with its output.

    inputs: files, or folders whose files with one of `suffixes` are taken, sorted; output: a file for one input file, a folder
    otherwise, or None for beside the input; name: output name for an input; force: existing outputs may be replaced.
    Raises:
        ConfigError: no input, two inputs with one output, an output that exists.
    """
    several = len(inputs) > 1 or any(path.is_dir() for path in inputs)
    as_file = output is not None and not several and not output.is_dir() and output.suffix != ""
    jobs = []
    for source in _expand(inputs, suffixes):
        folder = source.parent if output is None else output
        jobs.append(Job(source=source, target=output if as_file and output else folder / name(source)))
    if not jobs:
        raise ConfigError(
            f"nothing to do in {', '.join(map(str, inputs))}: wanted files ending in {', '.join(suffixes)}"
        )
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.target in taken:
            raise ConfigError(f"{taken[job.target]} and {job.source} would both become {job.target}: rename one")
        taken[job.target] = job.source
        if job.target.exists() and not force:
            raise ConfigError(f"{job.target} exists already: give --force to replace it, or another -o")
    return jobs


def run(jobs: Sequence[Job], task: Task, *, label: str, workers: int = 1) -> Outcome:
    """Do all jobs; one that fails is noted and the others go on. The first error of a single job is raised.

    workers: processes; 1 is this one. Raises PriorCodecError: the task cannot be opened.
    """
    if workers > 1 and len(jobs) > 1:
        from priorcodec import workers as processes

        results = processes.results(jobs, task, workers)
    else:
        results = _one_by_one(jobs, task)
    with contextlib.closing(results):
        found = dict(_progress(results, len(jobs), label))
    return outcome(jobs, found)


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


def _one_by_one(jobs: Sequence[Job], task: Task) -> Generator[tuple[int, Result], None, None]:
    work = task.open()
    for index, job in enumerate(jobs):
        yield index, do(job, work)


def _expand(inputs: Sequence[Path], suffixes: Sequence[str]) -> Iterator[Path]:
    for path in inputs:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in suffixes)
        elif path.exists():
            yield path
        else:
            raise ConfigError(f"{path}: no such file or folder")


def _as_ours(error: Exception, job: Job) -> PriorCodecError:
    if isinstance(error, PriorCodecError):
        return error if str(job.source) in str(error) else type(error)(f"{job.source}: {error}")
    if isinstance(error, MemoryError):
        return PriorCodecError(f"{job.source}: not enough memory for a picture of this size")
    return PriorCodecError(f"{job.source}: {error}")


@contextlib.contextmanager
def bar(label: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar of the steps inside one file; gives what to call with the number done, None where nobody would see it."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


def _progress(results: Iterable[Any], count: int, label: str) -> Iterable[Any]:
    if count == 1 or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    with contextlib.suppress(Exception):
        return track(results, description=label, total=count, console=Console(stderr=True))
    return results
