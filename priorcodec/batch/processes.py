"""Several processes for one list of files: each opens the task once and takes a file at a time; one that dies loses no file.

    parent --job--> worker --(row or error, its stderr)--> parent

One pipe per worker: concurrent.futures, loky and joblib give up every pending file when one process dies, and Pebble's workers
share one pipe whose lock is never released when the process that holds it is killed.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from priorcodec.batch import logs
from priorcodec.batch.jobs import Job, JobFn, Result, Task, run_job
from priorcodec.core.errors import PriorCodecError, out_of_memory

TRIES = 2  # of a file whose process dies
EARLY_DEATHS = 3  # in a row of workers that were not ready yet, before no further one is started
TERMINATED = 128 + signal.SIGTERM  # exit status, as shells have it
PATIENCE = 10.0  # seconds a process may take to stop


def results(jobs: Sequence[Job], task: Task, count: int) -> Generator[tuple[int, Result], None, None]:
    """Yield (index of a job, its row or error) as the jobs end. Closing it stops the processes; nothing is left half-written.

    SIGTERM, where the program leaves it to the system, stops them as well and then ends the program.

    Args:
        jobs: What to do.
        task: How to do it; opened once in each process.
        count: Processes, each with its share of torch's threads.

    Raises:
        PriorCodecError: The task cannot be opened, or the processes end before they have opened it.
    """
    pool = _Pool(task, min(count, len(jobs)))
    todo, tries = deque(range(len(jobs))), [0] * len(jobs)

    def dispatch(worker: _Worker) -> None:
        """Give the next job to this worker; without one it may end."""
        if not todo:
            pool.dismiss(worker)
            return
        index = todo.popleft()
        tries[index] += 1
        pool.busy[worker.pipe] = index, worker
        with contextlib.suppress(OSError):  # it has just died, and reading its pipe will show it
            worker.pipe.send(replace(jobs[index], may_exist=tries[index] > 1))

    stack = contextlib.ExitStack()
    stack.callback(pool.close)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        stack.enter_context(_signal(signal.SIGTERM, _terminate))
    with stack:
        for _ in range(pool.count):
            pool.start()
        while pool.busy or todo:
            for pipe in wait([*pool.starting, *pool.busy]):
                if pipe in pool.starting:
                    worker = pool.ready(pipe)
                    if worker:
                        dispatch(worker)
                    continue
                index, worker = pool.busy.pop(pipe)
                try:
                    result, stderr = worker.pipe.recv()
                except (EOFError, OSError):
                    end = f"{jobs[index].source}: its process {worker.stop()}"
                    if tries[index] < TRIES:
                        result, stderr = None, f"{end}, trying once more in another one\n"
                        todo.appendleft(index)
                    else:
                        result, stderr = PriorCodecError(f"{end} again: if memory is short, try fewer --workers"), ""
                    if todo:
                        pool.start()
                else:
                    dispatch(worker)
                print(stderr, end="", file=sys.stderr)
                if result is not None:
                    yield index, result


class _Pool:
    """The processes that are alive: those opening the task, and those at work with the index of their job."""

    def __init__(self, task: Task, count: int):
        self.task, self.count, self.early_deaths = task, count, 0
        self.starting: dict[Any, _Worker] = {}
        self.busy: dict[Any, tuple[int, _Worker]] = {}
        self.dismissed: list[_Worker] = []

    def start(self) -> None:
        worker = _Worker(self.task, self.count)
        self.starting[worker.pipe] = worker

    def ready(self, pipe: Any) -> _Worker | None:
        """The worker that has opened the task; None if it died meanwhile.

        Raises PriorCodecError: the task cannot be opened, or too many died and no other is left.
        """
        worker = self.starting.pop(pipe)
        try:
            error = worker.pipe.recv()
        except (EOFError, OSError):
            end = worker.stop()
            self.early_deaths += 1
            if self.early_deaths < EARLY_DEATHS:
                self.start()
            elif not self.starting and not self.busy:
                raise PriorCodecError(
                    f"{self.early_deaths} worker processes ended before their first file, the last one {end}: "
                    "if memory is short, try fewer --workers"
                ) from None
            return None
        if error is not None:
            raise error
        self.early_deaths = 0
        return worker

    def dismiss(self, worker: _Worker) -> None:
        """Let a worker end by itself, which takes a second or two; `close` waits for it."""
        worker.pipe.close()
        self.dismissed.append(worker)

    def close(self) -> None:
        workers = [*self.starting.values(), *(worker for _, worker in self.busy.values())]
        for worker in workers:
            worker.process.terminate()
        for worker in [*workers, *self.dismissed]:
            worker.stop()


class _Worker:
    """A process that waits for jobs at the other end of `pipe`."""

    def __init__(self, task: Task, count: int):
        context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and the GPU
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, task, count, logs.level()), daemon=True)
        with _no_interrupts():
            self.process.start()
        theirs.close()

    def stop(self) -> str:
        """-> how it ended. Without `terminate` before, it ends when it has done its job."""
        self.pipe.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        status = self.process.exitcode or 0
        if status >= 0:
            return f"ended with status {status}"
        known = {int(s): s.name for s in signal.Signals}  # not a real-time signal's
        return f"was killed by {known.get(-status, f'signal {-status}')}"


def _no_interrupts() -> contextlib.AbstractContextManager[None]:
    """A process started in here ignores Ctrl-C from its first instruction on: the parent stops it."""
    return _signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _signal(number: int, handler: Any) -> Iterator[None]:
    """In here this handler takes the signal. Only the main thread may set one, and only that one is interrupted."""
    try:
        before = signal.signal(number, handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, before)


def _terminate(*_: object) -> None:
    sys.exit(TERMINATED)  # through every `finally`: no worker stays, no file is half-written


def _stop_worker(*_: object) -> None:
    """Raise KeyboardInterrupt; a SystemExit would be a plugin's for `run_job`.

    Inside the callback of a weak reference, as imports have them, Python prints an exception and forgets it. Then, without a
    word, the closed pipe ends the worker.
    """
    sys.unraisablehook = lambda _: None
    raise KeyboardInterrupt


def _serve(pipe: Connection, task: Task, count: int, level: int) -> None:
    """In the worker: None once the task is open, or the error; then (result, stderr) for each job until the pipe is closed."""
    signal.signal(signal.SIGTERM, _stop_worker)
    try:
        _work(pipe, task, count, level)
    except KeyboardInterrupt:
        sys.exit(TERMINATED)  # the parent gives the file to another worker, or has stopped them all


def _work(pipe: Connection, task: Task, count: int, level: int) -> None:
    logs.log_to_stderr(level)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the program's, not a plugin's
            function = task.open()
    except Exception as error:
        if not isinstance(error, PriorCodecError):
            why = "not enough memory" if out_of_memory(error) else f"unexpected {type(error).__name__}: {error}"
            error = PriorCodecError(f"a worker process could not start: {why}")
        pipe.send(error)
        return
    torch = sys.modules.get("torch")  # a task that computes has imported it by now
    if torch is not None:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            pipe.send(run_job_captured(pipe.recv(), function))


def run_job_captured(job: Job, function: JobFn) -> tuple[Result, str]:
    """-> (row or error, what the job printed), for another process to print on stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as printed, contextlib.redirect_stdout(printed):
        return run_job(job, function), printed.getvalue()
