"""What code may have changed besides its result: standard output, torch's process-wide switches, random states."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

SEED = 0x9C0DEC  # that no plugin is likely to use
CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")


@contextlib.contextmanager
def observed() -> Iterator[list[str]]:
    """Collect what the block changes, in words, and undo it. The list is filled when the block ends."""
    found: list[str] = []
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(SEED)  # so that a block that seeds by itself, as it did before, changes something
    before, printed = _state(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield found
    finally:
        after = _state()
        found += [f"changes {name}" for name, (value, _) in before.items() if after[name][0] != value]
        for name, (value, restore) in before.items():
            if after[name][0] != value:
                restore(value)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if printed.getvalue():
            found.append(f"prints {printed.getvalue().strip()[:60]!r} to standard output")


def of_model(backbone: Any) -> list[tuple[str, bool, int, list[bool]]]:
    """Mode, hooks and gradient flags of every module of the denoiser: what a call must not change."""
    return [
        (
            name,
            module.training,
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks),
            [p.requires_grad for p in module.parameters(recurse=False)],
        )
        for name, module in backbone.module.named_modules()
    ]


def _state() -> dict[str, tuple[Any, Any]]:
    """name -> (value, function that sets it)."""
    mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn

    def set_cudnn(values: tuple[bool, ...]) -> None:
        for name, value in zip(CUDNN, values, strict=True):
            setattr(cudnn, name, value)

    return {
        "torch's default dtype": (torch.get_default_dtype(), torch.set_default_dtype),
        "torch's default device": (torch.get_default_device(), torch.set_default_device),
        "torch's grad mode": (torch.is_grad_enabled(), torch.set_grad_enabled),
        "torch's deterministic flag": (
            torch.are_deterministic_algorithms_enabled(),
            torch.use_deterministic_algorithms,
        ),
        "torch's number of threads": (torch.get_num_threads(), torch.set_num_threads),
        "torch's float32 matmul precision": (
            torch.get_float32_matmul_precision(),
            torch.set_float32_matmul_precision,
        ),
        "torch's mkldnn switch": (mkldnn.enabled, lambda value: setattr(mkldnn, "enabled", value)),
        "torch's cudnn switches": (tuple(getattr(cudnn, name) for name in CUDNN), set_cudnn),
        "torch's random state": (torch.get_rng_state().numpy().tobytes(), lambda _: None),
        "Python's random state": (random.getstate(), lambda _: None),
        "numpy's random state": (repr(np.random.get_state()), lambda _: None),  # noqa: NPY002
    }
