"""Many files through one function: what goes in, where it comes out, a bar while it lasts, and nobody stopped by one bad file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from priorcodec.batch.jobs import Job, Outcome, Result, Task, do, outcome
from priorcodec.core.errors import ConfigError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff")


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
        from priorcodec.batch import processes

        results = processes.results(jobs, task, workers)
    else:
        results = _one_by_one(jobs, task)
    with contextlib.closing(results):
        found = dict(_progress(results, len(jobs), label))
    return outcome(jobs, found)


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
