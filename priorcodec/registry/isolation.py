"""A stranger's code is run here so that nothing of it stays but its answer: output caught, time limited, torch as it was.

    switches --action--> answer;  switches again: what differs is put back and told;  what it printed goes to standard error
Imports no torch: its switches are looked at when it is there, and at once when the stranger is who loads it.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import io
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

Switches = dict[str, tuple[Any, Callable[[Any], Any]]]  # name -> (value, how to set it)
CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")


class Late(Exception):
    """The action did not end in time. Its thread cannot be stopped: it is left behind, and its answer dropped."""


def visit(action: Callable[[], Any]) -> tuple[Any, list[str]]:
    """-> the action's answer, and what else it did: torch's switches (put back), output. Raises what the action raises."""
    told: list[str] = []
    with _switches_kept(told), _output_kept(told) as output:
        output.guest = threading.get_ident()
        answer = action()
    return answer, told


def visit_briefly(action: Callable[[], Any], seconds: float) -> tuple[Any, list[str]]:
    """`visit` in a thread of its own, for at most so many seconds. Raises Late too."""
    told: list[str] = []
    answers: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        output.guest = threading.get_ident()
        try:
            answers.append(action())
        except BaseException as error:  # a stranger may raise SystemExit
            errors.append(error)
        look(("grad mode",))  # which ends with this thread

    thread = threading.Thread(target=work, daemon=True, name="priorcodec plugin")
    with _switches_kept(told) as look, _output_kept(told) as output:
        thread.start()
        thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise Late
    return answers[0], told


class _Output(io.TextIOBase):
    """Standard output while a guest is here: what its thread writes goes to standard error, the rest where it belongs."""

    def __init__(self, real: Any):
        self.real, self.text = real, ""
        self.guest: int | None = None

    def write(self, text: str) -> int:
        if threading.get_ident() != self.guest:
            return self.real.write(text)
        self.text += text
        return sys.stderr.write(text)

    def flush(self) -> None:
        self.real.flush()


@contextlib.contextmanager
def _output_kept(told: list[str]) -> Iterator[_Output]:
    output = _Output(sys.stdout)
    try:
        with contextlib.redirect_stdout(output):
            yield output
    finally:
        output.guest = None
        if output.text:
            told.append(f"prints to standard output: {output.text.strip().partition(chr(10))[0][:60]!r}")


def _switches() -> Switches:
    """Torch's process-wide settings; none while it is not loaded, or only half."""
    torch: Any = sys.modules.get("torch")
    return {} if torch is None or getattr(torch.__spec__, "_initializing", False) else _switches_of(torch)


def _switches_of(torch: Any) -> Switches:
    mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn

    def set_cudnn(values: tuple[bool, ...]) -> None:
        for name, value in zip(CUDNN, values, strict=True):
            setattr(cudnn, name, value)

    return {
        "default dtype": (torch.get_default_dtype(), torch.set_default_dtype),
        "default device": (torch.get_default_device(), torch.set_default_device),
        "grad mode": (torch.is_grad_enabled(), torch.set_grad_enabled),
        "deterministic flag": (torch.are_deterministic_algorithms_enabled(), torch.use_deterministic_algorithms),
        "number of threads": (torch.get_num_threads(), torch.set_num_threads),
        "float32 matmul precision": (torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision),
        "mkldnn switch": (mkldnn.enabled, lambda value: setattr(mkldnn, "enabled", value)),
        "cudnn switches": (tuple(getattr(cudnn, name) for name in CUDNN), set_cudnn),
        "random seed": (torch.initial_seed(), torch.manual_seed),
    }


@contextlib.contextmanager
def _switches_kept(told: list[str]) -> Iterator[Callable[[Collection[str]], None]]:
    """-> look(but_for), for the end of another thread: the number of threads is each thread's own until it is put back here."""
    with _torch_when_loaded() as loaded:
        before, found = _switches(), set[str]()
        random = sys.modules["torch"].get_rng_state() if before else None

        def look(but_for: Collection[str] = ()) -> None:
            after = _switches()
            for name, (value, _) in (before or loaded).items() if after else ():
                if after[name][0] != value and name not in but_for:
                    found.add(name)

        try:
            yield look
        finally:
            look()
            for name, (value, put_back) in (before or loaded).items():
                if name in found:
                    put_back(value)
                    told.append(f"changes torch's {name}")
            if random is not None:
                sys.modules["torch"].set_rng_state(random)


@contextlib.contextmanager
def _torch_when_loaded() -> Iterator[Switches]:
    """-> torch's switches at the moment somebody loads it inside the block; none where nobody does."""
    loaded: Switches = {}

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != "torch":
                return None
            sys.meta_path.remove(self)
            found = importlib.util.find_spec(fullname)
            loader: Any = found and found.loader
            if loader:
                execute = loader.exec_module
                loader.exec_module = lambda module: (execute(module), loaded.update(_switches_of(module)))
            return found

    finder = Finder()
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, finder)
    try:
        yield loaded
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)
