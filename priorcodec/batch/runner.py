"""Many files through one function: inputs, outputs, a progress bar, and errors that end one file, not the run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from priorcodec.batch.jobs import STREAM, Job, Outcome, Result, Task, outcome, run_job
from priorcodec.core.errors import ConfigError
from priorcodec.core.image.io import SUFFIXES
from priorcodec.core.io import atomic
from priorcodec.core.io.names import as_compared, fit_name, printable

IMAGES = tuple(sorted(SUFFIXES))

logger = logging.getLogger(__name__)


def list_jobs(
    inputs: Sequence[Path],
    output: Path | None,
    *,
    suffixes: Sequence[str],
    ending: str,
    outputs: Sequence[str],
    force: bool,
) -> list[Job]:
    """Pair every input file with its output.

    Two inputs that would share an output keep their suffixes in its name (`a.jpg.gic`, `a.png.gic`). What is wrong with one
    input only is noted in its job.

    Args:
        inputs: Files, `STREAM`, or folders whose files with one of `suffixes` are taken, sorted.
        output: A file or `STREAM` for one input file, a folder otherwise, or None for beside the input.
        suffixes: Lower-case suffixes of the files to take from folders.
        ending: Replaces the suffix of an input to make the name of its output.
        outputs: Suffixes that an output file may have.
        force: Whether existing outputs may be replaced.

    Raises:
        ConfigError: No input; an `output` of the wrong kind; outputs that exist.
    """
    sources = expand(inputs, suffixes)
    if not sources:
        names = ", ".join(map(str, inputs))
        raise ConfigError(f"nothing to do in {names}: wanted files ending in {', '.join(suffixes)}")
    if STREAM in sources and len(sources) > 1:
        raise ConfigError("got standard input (-) and other inputs, wanted standard input alone")
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    file = _output_file(output, len(sources), single, outputs)
    targets = [file] if file else _names(sources, output, ending)
    inodes = {atomic.identity(source): source for source in sources if source != STREAM}
    clashing = {place for place, count in Counter(map(_place, targets)).items() if count > 1}
    jobs, existing = [], []
    for source, target in zip(sources, targets, strict=True):
        job = Job(source=source, target=target)
        found = None if target == STREAM else atomic.identity(target)
        if source != STREAM and not os.path.lexists(source):
            job = replace(job, problem=f"{printable(source)}: no such file or folder")
        elif found and found in inodes:
            job = replace(
                job, problem=f"cannot write {target}: it is the input {inodes[found]} itself, give another -o"
            )
        elif _place(target) in clashing:
            job = replace(job, problem=f"{source}: another input would become {target} too: rename one of them")
        elif not force and job.target_exists():
            existing.append(target)
        jobs.append(job)
    if existing:
        more = f" and {_count(len(existing) - 1, 'other output')} exist" if existing[1:] else " exists"
        raise ConfigError(f"{existing[0]}{more} already: give --force to replace outputs, or another -o")
    return jobs


def expand(inputs: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """Expand folders to their files with one of `suffixes`, each file once; logs how many other files were ignored."""
    found: dict[str, Path] = {}
    for path in inputs:
        for file in [path] if path == STREAM or not os.path.isdir(path) else _in_folder(path, suffixes):
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def run_jobs(jobs: Sequence[Job], task: Task, *, label: str, workers: int = 1) -> Outcome:
    """Do all jobs; one that fails is noted and the others go on. The error of a single job is raised.

    Args:
        jobs: What to do, from `list_jobs`.
        task: How to do it.
        label: Of the progress bar.
        workers: Processes; 1 is this one.

    Raises:
        PriorCodecError: The task cannot be opened, or its worker processes cannot be started.
    """
    found: dict[int, Result] = {i: ConfigError(job.problem) for i, job in enumerate(jobs) if job.problem}
    todo = [i for i in range(len(jobs)) if i not in found]
    if todo:
        ready = [jobs[i] for i in todo]
        if workers > 1 and len(ready) > 1:
            from priorcodec.batch import processes

            results = processes.results(ready, task, workers)
        else:
            results = _one_by_one(ready, task)
        with contextlib.closing(results):
            found |= {todo[i]: result for i, result in _progress(results, len(ready), label)}
    return outcome(jobs, found)


@contextlib.contextmanager
def progress_bar(label: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar for the steps inside one file; yields a callback that takes the number done, None where no bar is shown."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


def _output_file(output: Path | None, count: int, single: bool, outputs: Sequence[str]) -> Path | None:
    """The file that `-o` names; None where it names a folder or nothing. Raises ConfigError: neither can be meant."""
    if output is None or os.path.isdir(output):
        return None
    wanted = " or ".join(outputs)
    if output == STREAM:
        if not single:
            raise ConfigError(f"got {count} inputs for standard output (-o -), wanted one file")
        return output
    named = output.suffix.lower() in outputs
    # A pipe or a device has no suffix.
    if single and (named or (os.path.exists(output) and not os.path.isfile(output))):
        return output
    if single and (output.suffix or os.path.isfile(output)):
        raise ConfigError(f"cannot write {output}: wanted a name ending in {wanted}, or a folder")
    if named or os.path.exists(output):
        raise ConfigError(f"got -o {output} for files of a folder or several files, wanted a folder")
    return None


def _names(sources: Sequence[Path], folder: Path | None, ending: str) -> list[Path]:
    """Outputs with short names (`a.gic` for `a.png`), and with the input's whole name where short ones would be the same.

    A name that is too long for the file system is cut, and ends in a hash of the whole.
    """
    if sources[0] == STREAM:
        return [STREAM if folder is None else folder / f"stdin{ending}"]
    folders = [source.parent if folder is None else folder for source in sources]
    short = [where / fit_name(source.stem, ending, where) for where, source in zip(folders, sources, strict=True)]
    keys = [as_compared(os.path.abspath(name)) for name in short]
    count = Counter(keys)
    return [
        name if count[key] == 1 else where / fit_name(source.name, ending, where)
        for name, key, where, source in zip(short, keys, folders, sources, strict=True)
    ]


def _place(path: Path) -> str:
    """Where a file lies at the end of all links, as the file system compares it."""
    try:
        return as_compared(os.path.realpath(path))
    except ValueError:  # a NUL in its name, which whoever opens it will name
        return os.path.abspath(path)


def _in_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files and dangling links with one of `suffixes`, sorted. `._*` are metadata that macOS writes beside files."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from error
    taken = [path for path in entries if path.suffix.lower() in suffixes and not path.name.startswith("._")]
    taken = [path for path in taken if os.path.isfile(path) or not os.path.exists(path)]
    rest = set(entries) - set(taken)
    if rest:
        files = [path for path in rest if not os.path.isdir(path)]
        kinds = sorted({path.suffix.lower() or path.name for path in files})
        shown = f" ({printable(', '.join(kinds[:5]))}{', ...' if kinds[5:] else ''})" if kinds else ""
        found = [_count(len(files), "other file") + shown, _count(len(rest) - len(files), "folder")]
        logger.info("%s: passed over %s", printable(folder), " and ".join(text for text in found if text[0] != "0"))
    return taken


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _one_by_one(jobs: Sequence[Job], task: Task) -> Generator[tuple[int, Result], None, None]:
    function = task.open()
    for index, job in enumerate(jobs):
        yield index, run_job(job, function)


def _progress(results: Iterable[Any], count: int, label: str) -> Iterable[Any]:
    if count == 1 or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, description=label, total=count, console=Console(stderr=True))
