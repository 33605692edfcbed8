"""The graphs of one folder of `priorcodec export`: loaded in the background when they are needed, run whole or part by part."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from priorcodec_lite.core import tiling
from priorcodec_lite.core.errors import WeightsError

FORMAT = 1  # of the manifest
PART = 1024  # pixels of a side that local networks work on at a time


class Graphs:
    """The networks of a folder.

    Args:
        folder: As `priorcodec export` writes it.
        threads: Of onnxruntime; None for as many as there are processors.

    Attributes:
        folder: The folder.
        manifest: Its manifest.json.

    Raises:
        WeightsError: The folder has no manifest, or one of another version.
    """

    def __init__(self, folder: Path, *, threads: int | None = None):
        self.folder, self._threads = folder, threads or _processors()
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if self.manifest["format"] != FORMAT:
                raise ValueError(f"format {self.manifest['format']}, wanted {FORMAT}")
            for key in ("tile", "margin") if "decoder.onnx" in self.manifest["files"] else ():
                if type(self.manifest[key]) is not int:
                    raise ValueError(f"{key} is {self.manifest[key]!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{folder} has no readable graphs ({error}): write them with `priorcodec export`"
            ) from error
        self._start()

    def preload(self, *names: str) -> None:
        """Start to load graphs in the background, in this order; one that could not be loaded is tried again."""
        if self._process != os.getpid():  # a fork has neither the threads of the loader nor those of the graphs
            self._start()
        for name in names:
            loading = self._loading.get(name)
            if loading is None or loading.done() and loading.exception():
                self._loading[name] = self._loader.submit(self._load, name)

    def _start(self) -> None:
        self._process = os.getpid()
        self._loading: dict[str, Future[Any]] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="graphs")

    def free(self) -> None:
        """Drop the graphs that are loaded; they are loaded again when needed."""
        self._loading.clear()

    def run(self, name: str, **inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """All outputs of a graph. Raises WeightsError: it is missing or cannot be used."""
        self.preload(name)
        graph = self._loading[name].result()
        try:
            return graph.run(None, inputs)
        except Exception as error:  # onnxruntime has many
            raise WeightsError(
                f"{self.folder / name}.onnx does not take what it is given ({str(error).splitlines()[0][:200]}): "
                "export the graphs again"
            ) from error

    def in_parts(
        self, name: str, f: Callable[[Any], Any], x: NDArray[Any], stride: int, to: int
    ) -> NDArray[np.float32]:
        """A local network part by part, the same as in one piece.

        Args:
            name: Of its graph.
            f: Runs it on a part.
            x: Input (..., h, w) on a grid of `stride` pixels.
            stride: See there.
            to: Pixels to a position of the output.
        """
        try:
            halo = self.manifest["files"][f"{name}.onnx"]["halo"]
        except KeyError:
            raise WeightsError(f"{self.folder} has no {name}: export the graphs again") from None
        height, width = x.shape[-2] * stride, x.shape[-1] * stride
        whole: NDArray[np.float32] | None = None
        for rows, columns in tiling.plan(height, width, PART, 0):
            part = tiling.part(f, x, (rows, columns), halo, stride)
            if whole is None:
                whole = np.empty((*part.shape[:-2], height // to, width // to), np.float32)
            whole[..., rows.own(to), columns.own(to)] = part
        assert whole is not None  # a plan has a tile
        return whole

    def _load(self, name: str) -> Any:
        import onnxruntime  # pyright: ignore[reportMissingImports]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # Threads that wait leave the processor.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        level = onnxruntime.GraphOptimizationLevel
        # Graphs of convolutions are faster in a better layout; with the others, optimizing takes longer than it saves.
        local = "halo" in self.manifest["files"].get(f"{name}.onnx", {})
        options.graph_optimization_level = level.ORT_ENABLE_ALL if local else level.ORT_DISABLE_ALL
        options.log_severity_level = 4  # an exception says the same
        path = self.folder / f"{name}.onnx"
        if not path.is_file():
            raise WeightsError(f"{path} is missing: export it, or give another folder of graphs")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.manifest["files"].get(path.name, {}).get("sha256"):
            raise WeightsError(f"{path} is not the file that manifest.json lists: export the graphs again")
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many
            raise WeightsError(f"{path} cannot be used ({str(error).splitlines()[0][:200]}): get it again") from error


def _processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
