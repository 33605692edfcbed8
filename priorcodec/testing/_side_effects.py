"""What code may have changed besides its result: standard output, process-wide switches, random states, the model itself."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

SEED = 0x9C0DEC  # that no plugin is likely to use
CLAMPS = ("clamp", "clamp_", "clamp_min", "clamp_max", "clip", "clip_", "hardtanh", "hardtanh_", "round", "round_")
CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")
REMEDIES = {  # word of a finding -> what to do
    "random state": "make random weights under torch.random.fork_rng(), and draw from a torch.Generator of your own",
    "mode of": "call .eval() once, in build()",
    "hooks": "remove the hooks that you add",
    "gradient flags": "call .requires_grad_(False) once, in build()",
    "grad mode": "use `with torch.no_grad():`, not torch.set_grad_enabled()",
    "switch": "leave process-wide settings to the program",
}


ATTENTION = [
    (getattr(torch.backends.cuda, f"{name}_sdp_enabled"), getattr(torch.backends.cuda, f"enable_{name}_sdp"))
    for name in ("flash", "mem_efficient", "math")
]


@contextlib.contextmanager
def observed() -> Iterator[list[str]]:
    """Collect what the block changes, in words, and undo it. The list is filled when the block ends."""
    found: list[str] = []
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    for seed in (random.seed, np.random.seed, torch.default_generator.manual_seed):
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


def of_model(backbone: Any) -> dict[str, dict[str, Any]]:
    """Mode, hooks, gradient flags and values of all modules of a backbone: what a call must not change."""
    kinds: dict[str, dict[str, Any]] = {"mode of": {}, "hooks of": {}, "gradient flags of": {}, "weight or buffer": {}}
    for path, module in _modules(backbone):
        kinds["mode of"][path] = module.training
        kinds["hooks of"][path] = (
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        )
        kinds["gradient flags of"][path] = [p.requires_grad for p in module.parameters(recurse=False)]
        for name, value in (*module.named_parameters(path, False), *module.named_buffers(path, False)):
            kinds["weight or buffer"][name] = _digest(value)
    return kinds


def difference(backbone: Any, before: dict[str, dict[str, Any]]) -> list[str]:
    """What of `before` has changed, in words: one finding for each kind, with the first module or weight."""
    after = of_model(backbone)
    found = []
    for kind, values in before.items():
        changed = [name for name in {**values, **after[kind]} if values.get(name) != after[kind].get(name)]
        if changed:
            found.append(f"changes the {kind} {changed[0] or 'the backbone'}")
    return found


@contextlib.contextmanager
def clamps() -> Iterator[list[tuple[int, ...]]]:
    """Collect the shapes of tensors that the block clamps or rounds to integers."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[tuple[int, ...]] = []

    class Listen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ in CLAMPS:
                found.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    with Listen():
        yield found


def _modules(backbone: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """All modules of a backbone, which need not be one itself, by path."""
    if isinstance(backbone, torch.nn.Module):
        yield from backbone.named_modules()
        return
    for name, part in vars(backbone).items():
        if isinstance(part, torch.nn.Module):
            yield from part.named_modules(prefix=name)


def _digest(value: torch.Tensor) -> Any:
    """Numbers that change when the values do, quick for weights of any size."""
    if value.is_meta:
        return tuple(value.shape)
    flat = value.detach().flatten()
    return tuple(value.shape), value._version, flat[:64].float().sum().item(), flat.float().abs().sum().item()


def _set_filters(values: list[Any]) -> None:
    filters: Any = warnings.filters
    filters[:] = values


def _set_attention(values: tuple[bool, ...]) -> None:
    for (_, setter), value in zip(ATTENTION, values, strict=True):
        setter(value)


def _state() -> dict[str, tuple[Any, Any]]:
    """name -> (value, function that sets it)."""
    mkldnn, cudnn, matmul = torch.backends.mkldnn, torch.backends.cudnn, torch.backends.cuda.matmul

    def set_environment(values: dict[str, str]) -> None:
        os.environ.clear()
        os.environ.update(values)

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
        "torch's matmul switch": (matmul.allow_tf32, lambda value: setattr(matmul, "allow_tf32", value)),
        "torch's attention switches": (tuple(f() for f, _ in ATTENTION), _set_attention),
        "torch's anomaly switch": (torch.is_anomaly_enabled(), torch.autograd.set_detect_anomaly),
        "torch's inference mode": (torch.is_inference_mode_enabled(), lambda _: None),
        "Python's warning filters": (
            list(warnings.filters),
            _set_filters,
        ),
        "the root logger's level": (logging.getLogger().level, logging.getLogger().setLevel),
        "environment variables": (dict(os.environ), set_environment),
        "the working directory": (os.getcwd(), os.chdir),
        "numpy's error switches": (np.geterr(), lambda value: np.seterr(**value)),
        "torch's cudnn switches": (tuple(getattr(cudnn, name) for name in CUDNN), set_cudnn),
        "torch's random state": (torch.get_rng_state().numpy().tobytes(), lambda _: None),
        "Python's random state": (random.getstate(), lambda _: None),
        "numpy's random state": (repr(np.random.get_state()), lambda _: None),  # noqa: NPY002
    }
