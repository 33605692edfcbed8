"""Several processes for one list of files: each opens the task once and takes a file at a time; one that dies loses no file.

    parent --Job--> worker --(row or error, what it said)--> parent

Own pipes, because concurrent.futures gives up every file when one process dies and multiprocessing.Pool waits for ever.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from priorcodec.batch.jobs import Job, Result, Task, Work, do
from priorcodec.core.errors import PriorCodecError

TRIES = 2  # of a file whose process dies
PATIENCE = 10.0  # seconds a process may take to stop


def results(jobs: Sequence[Job], task: Task, count: int) -> Generator[tuple[int, Result], None, None]:
    """-> (index of a job, its row or error), as they end. Closing it stops the processes; nothing is left half-written.

    count: processes, each with its part of torch's threads. Raises PriorCodecError: the task cannot be opened.
    """
    count = min(count, len(jobs))
    todo, tries = deque(range(len(jobs))), [0] * len(jobs)
    busy: dict[Any, tuple[int, _Worker]] = {}

    def give(worker: _Worker | None) -> None:
        """The next job to this worker, or to a new one; a worker for which there is none is stopped."""
        if todo:
            worker = worker or _Worker(task, count)
            index = todo.popleft()
            tries[index] += 1
            busy[worker.pipe] = index, worker
            with contextlib.suppress(OSError):  # it has just died: reading its pipe will tell
                worker.pipe.send(jobs[index])
        elif worker:
            worker.stop()

    try:
        for _ in range(count):
            give(None)
        while busy:
            for pipe in wait(list(busy)):
                index, worker = busy.pop(pipe)
                try:
                    result, said = worker.pipe.recv()
                except (EOFError, OSError):
                    end = f"{jobs[index].source}: its process {worker.stop()}"
                    result, said, worker = None, f"{end}, once more in another one\n", None
                    if tries[index] < TRIES:
                        todo.appendleft(index)
                    else:
                        result, said = PriorCodecError(f"{end} again: if memory is short, try fewer --workers"), ""
                else:
                    if said is None:  # the task cannot be opened
                        raise result
                print(said, end="", file=sys.stderr)
                give(worker)
                if result is not None:
                    yield index, result
    finally:
        for _, worker in busy.values():
            worker.process.terminate()
        for _, worker in busy.values():
            worker.stop()


class _Worker:
    """A process that waits for jobs at the other end of `pipe`."""

    def __init__(self, task: Task, count: int):
        context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and the GPU
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, task, count), daemon=True)
        with _no_interrupts():
            self.process.start()
        theirs.close()

    def stop(self) -> str:
        """-> how it ended. One that is not told to terminate first does so when it has done its job."""
        self.pipe.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        status = self.process.exitcode or 0
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """What starts in here ignores Ctrl-C, from its first instruction on: stopping it is left to the parent."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # only the main thread may set it, and only that one is interrupted
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, task: Task, count: int) -> None:
    """In the new process: jobs in, (result, what was said) out, until the parent closes the pipe or is gone."""
    import torch

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through every `finally`: no file stays half-written
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        work = task.open()
    except PriorCodecError as error:
        pipe.send((error, None))
        return
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(do_and_listen(pipe.recv(), work))


def do_and_listen(job: Job, work: Work) -> tuple[Result, str]:
    """-> (row or error, what was said on stderr), to be said by another process."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        return do(job, work), said.getvalue()
