"""Many files through one function: what goes in, where it comes out, a bar while it lasts, and nobody stopped by one bad file."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from priorcodec.core.errors import ConfigError, PriorCodecError, StreamError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Job:
    source: Path
    target: Path


@dataclass(kw_only=True)
class Outcome:
    """rows: one dict per finished file, in order; failures: (file, one line)."""

    rows: list[dict[str, Any]] = field(default_factory=list)
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


def run(
    jobs: Sequence[Job],
    work: Callable[[Job], dict[str, Any]],
    *,
    label: str,
    differs: Callable[[Job], str] | None = None,
    force: bool = False,
) -> Outcome:
    """Do all jobs; one that fails is noted and the next one goes on. The first of a single job's errors is raised.

    differs: why an existing target is not what `work` would write, empty if it is, and is left then; force: replace it if not.
    """
    outcome = Outcome()
    for job in _progress(jobs, label):
        started = time.perf_counter()
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            why = differs(job) if differs and job.target.exists() else None
            if why and not force:
                raise ConfigError(f"{job.target} {why}: give --force to replace it, or another -o")
            row = {"skipped": True} if why == "" else work(job)
        except (PriorCodecError, OSError, MemoryError) as error:
            if len(jobs) == 1:
                raise _as_ours(error, job) from error
            outcome.failures.append((job.source, str(_as_ours(error, job))))
            continue
        seconds = round(time.perf_counter() - started, 3)
        outcome.rows.append({"input": str(job.source), "output": str(job.target), **row, "seconds": seconds})
    return outcome


def coded_differs(
    job: Job,
    size: tuple[int, ...],
    *,
    encoder_id: int,
    quality: int | None,
    most: Callable[[int, int], int | None],
    statistics: bool,
) -> str:
    """Why the target is not what coding the source would write, as far as can be told without coding it; empty if it may be.

    size: (height, width) of the source; quality: of the file, None for any; most: bytes by size, None for any number.
    """
    from priorcodec.core import bitstream

    data = job.target.read_bytes()
    try:
        stream = bitstream.unpack(data, max_pixels=2**64)
    except StreamError as error:
        return f"is no readable coded file ({error})"
    height, width = size
    limit = most(height, width)
    reasons = {
        "is of another encoder": stream.encoder_id != encoder_id,
        f"has quality byte {stream.quality}, not {quality}": quality not in (None, stream.quality),
        f"has {len(data)} bytes, more than {limit}": limit is not None and len(data) > limit,
        "has statistics or lacks them": (stream.segment(bitstream.STATISTICS) is not None) != statistics,
        "is of a picture of another size": (stream.height, stream.width) != (height, width),
        "is older than the picture": job.target.stat().st_mtime < job.source.stat().st_mtime,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


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


def _progress(jobs: Sequence[Job], label: str) -> Iterable[Job]:
    if len(jobs) == 1 or not sys.stderr.isatty():
        return jobs
    from rich.console import Console
    from rich.progress import track

    with contextlib.suppress(Exception):
        return track(jobs, description=label, console=Console(stderr=True))
    return jobs
