"""The same folder runs on a cluster: Ray Data's pool of actors, one open task in each (ray.io; Moritz et al. 2018).

    jobs --one block each--> actor with the task open --row or error--> outcome in the order of the jobs

Ray restarts an actor that dies and has its job done again, even one just finished: hence a task that leaves what is done.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from priorcodec.batch.jobs import Job, Outcome, Result, Task, outcome
from priorcodec.batch.processes import TRIES, run_job_captured
from priorcodec.core.errors import ConfigError, PriorCodecError


def run_jobs(jobs: Sequence[Job], task: Task, *, workers: int, cpus: float = 1, gpus: float = 0) -> Outcome:
    """Do all jobs, as `runner.run_jobs` does, on the cluster that Ray is connected to, or on this machine.

    Args:
        jobs: With absolute paths that all nodes can reach.
        task: What to do; with skip=True it leaves outputs that are there, so that nothing is done twice.
        workers: Actors at most.
        cpus: Cores for each actor, fractions allowed.
        gpus: GPUs for each actor, fractions allowed.

    Raises:
        ConfigError: Ray is not installed.
        PriorCodecError: The task cannot be opened.
    """
    try:
        ray: Any = import_module("ray")  # a plain import means this very file to a type checker
        import_module("ray.data")
    except ImportError as error:
        raise ConfigError(f"Ray Data cannot be used ({error}): pip install 'priorcodec[ray]'") from error
    task.open()  # impossible settings raise here, once
    # a job that is tried again does not know: what is at its target by then may be its own output
    rows = [{"index": i, "job": pickle.dumps(replace(job, may_exist=True))} for i, job in enumerate(jobs)]
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    data.context.max_errored_blocks = -1  # a file that kills every actor stops no other
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last two are to go in Ray 2.64, and nothing else says how often to retry
        done = data.map_batches(
            _Actor,
            fn_constructor_args=(task,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=TRIES - 1,
        )
    found: dict[int, Result] = {}
    for row in done.iter_rows():
        result, stderr = pickle.loads(row["answer"])  # written by our own actors
        print(stderr, end="", file=sys.stderr)
        found[row["index"]] = result
    lost = f"every process at work on it died, {TRIES} times: if memory is short, give each more cpus"
    return outcome(jobs, {i: found.get(i, PriorCodecError(f"{job.source}: {lost}")) for i, job in enumerate(jobs)})


class _Actor:
    def __init__(self, task: Task):
        self.function = task.open()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        answers = [pickle.dumps(run_job_captured(pickle.loads(job), self.function)) for job in batch["job"]]
        return {"index": batch["index"], "answer": np.array(answers, dtype=object)}
