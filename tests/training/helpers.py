"""What the training tests share: small settings, and real processes from a fork server that has imported everything once."""

import multiprocessing
import os
import socket

import torch

from priorcodec.training.adapter import train_adapter
from priorcodec.training.encoder import train_encoder

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["priorcodec.training.encoder", "peft", "accelerate", "tests.training.helpers"])
WAIT = 240  # seconds; far more than needed, for busy machines
SIZES = {
    "width": 8,
    "depth": 1,
    "stem_width": 8,
    "stem_depth": 1,
    "fusion": 8,
    "window": 4,
    "refiner": 8,
    "refiner_depth": 1,
    "mapper": True,
}
WORDS = [
    *("backbone=toy", "tiny=true", "device=cpu", "precision=no", "batch=4", "crop=64", "lr=0.01", "warmup=2"),
    *("loss.perceptual=0", "log_every=1", "save_minutes=0"),
    *(f"adapter.{key}={value}" for key, value in SIZES.items()),
]
ENCODER = {"n8": 8, "n16": 8, "m": 6, "groups": (2, 4), "m_h": 4, "n": 8, "depth8": 1, "depth16": 1}


def state(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same(a, b):
    return all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"]) and all(
        torch.equal(x, y) for x, y in zip(a["average"], b["average"], strict=True)
    )


def close(a, b):
    return all(torch.allclose(a["model"][key], b["model"][key], atol=1e-4, rtol=1e-4) for key in a["model"])


def child(words):
    train_adapter(words)


def ranked(words, rank, port, command, prepare):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    if prepare:
        prepare(rank)
    {"adapter": train_adapter, "encoder": train_encoder}[command](words)


def two_processes(words, *, command="adapter", prepare=None):
    """Run a training command in two real processes that find each other as under `accelerate launch`.

    prepare: called with the rank first, a function of a module that the fork server can import.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [SERVER.Process(target=ranked, args=(words, rank, port, command, prepare)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]


def count_checkpoints(rank):
    """Each checkpoint leaves a mark in the run folder."""
    from priorcodec.training import checkpoint

    write = checkpoint.write

    def counting(path, state):
        write(path, state)
        with (path.parent / "count").open("a") as file:
            file.write(".")

    checkpoint.write = counting


def clocks_that_disagree(rank):
    """Time as the loop sees it: by its own clock the first process saves at each step, the second would at every other one."""
    from types import SimpleNamespace

    from priorcodec.training import loop

    now = 0.0

    def monotonic():
        nonlocal now
        now += 0.7 if rank else 2.0
        return now

    loop.time = SimpleNamespace(monotonic=monotonic)
    count_checkpoints(rank)
