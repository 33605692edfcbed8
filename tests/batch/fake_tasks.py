"""Tasks that fail, end their process, or never get ready. A module of its own: a worker imports it without torch."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from priorcodec.core.io import atomic


@dataclass(frozen=True, kw_only=True)
class Deadly:
    """Writes the name of each file into its output; some kill the process that works on them afterwards, once or always."""

    once: str
    always: str
    signal: int = signal.SIGKILL

    def open(self):
        def work(job):
            dead = job.target.with_suffix(".dead")
            atomic.write(job.target, job.source.name.encode(), replace=job.may_exist)
            if self.always in job.source.name or (self.once in job.source.name and not dead.exists()):
                dead.touch()
                os.kill(os.getpid(), self.signal)
            return {"process": os.getpid()}

        return work


@dataclass(frozen=True, kw_only=True)
class NeverReady:
    """A task that kills each process that opens it."""

    log: Path
    only_from: int = 0

    def open(self):
        with self.log.open("ab", buffering=0) as log:
            log.write(b"x")
            place = log.tell()  # its own, however many write at the same time
        if place > self.only_from:
            os.kill(os.getpid(), signal.SIGKILL)
        return lambda job: {"process": os.getpid()}


@dataclass(frozen=True, kw_only=True)
class Fails:
    """Each job raises what its file is called."""

    def open(self):
        def fails(job):
            if "fine" in job.source.name:
                return {}
            raise {
                "memory": MemoryError(),
                "torch": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                "bug": KeyError(1),
            }[job.source.name]

        return fails


@dataclass(frozen=True, kw_only=True)
class NoMemory:
    def open(self):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 MiB")


@dataclass(frozen=True, kw_only=True)
class Prints:
    """Prints while it is opened and at each job, as a plugin may."""

    def open(self):
        print("opening")

        def work(job):
            print("working on", job.source.name)
            return {}

        return work
