"""One torch module -> one ONNX graph, the same bytes for the same weights.

Pixel unshuffling is written with tensors of rank 4, since runtimes for phones refuse rank 6 (the shuffle is an operator of ONNX).
Adaptive pooling is written as two products of matrices, since torch's own decomposition holds for the traced size alone.
Weights that half precision holds exactly are stored in it and cast when the graph is loaded: half the size, the same values.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priorcodec.core.errors import ConfigError

OPSET = 18
LEAST = 1024  # values of a weight that is stored in half precision


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        shape: Length of each side: a number, or text such as "16h": 16 times a length that is free.
    """

    name: str
    shape: tuple[int | str, ...]


def trace(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    half: bool = False,
) -> bytes:
    """Trace a module in evaluation mode, its parameters on the CPU in float32.

    Args:
        module: What to trace.
        examples: A tensor for each input.
        inputs: In the order of the module's arguments.
        outputs: In the order of its results.
        half: Round all large weights to half precision, not only store those in it that it holds exactly.

    Returns:
        The ONNX model.

    Raises:
        ConfigError: The packages that write ONNX are missing.
    """
    rewritten = mock.patch.multiple(F, pixel_unshuffle=unshuffle, adaptive_avg_pool2d=adaptive_pool)
    with torch.no_grad(), _quiet(), rewritten:
        try:
            program: Any = torch.onnx.export(
                module, tuple(examples[port.name] for port in inputs), dynamo=True, opset_version=OPSET,
                verbose=False, optimize=False,
                input_names=[port.name for port in inputs], output_names=[port.name for port in outputs],
                dynamic_shapes=_free(inputs),
            )  # fmt: skip
        except ImportError as error:
            raise ConfigError(
                f"export needs {error.name}, which is missing: pip install 'priorcodec[export]'"
            ) from error
    _simplify(program.model)
    model = program.model_proto
    for value, port in zip([*model.graph.input, *model.graph.output], [*inputs, *outputs], strict=True):
        for dimension, side in zip(value.type.tensor_type.shape.dim, port.shape, strict=True):
            if isinstance(side, str):
                dimension.dim_param = side
    _strip(model)
    _in_half_precision(model, rounded=half)
    return model.SerializeToString(deterministic=True)


def unshuffle(x: Tensor, r: int) -> Tensor:
    """`pixel_unshuffle` of x (b, c, h, w) by r."""
    b, c, h, w = x.shape
    x = x.reshape(b * c * h // r, r, w // r, r).transpose(2, 3)
    return x.reshape(b * c, h // r, r * r, w // r).transpose(1, 2).reshape(b, c * r * r, h // r, w // r)


def adaptive_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`adaptive_avg_pool2d` of x (b, c, h, w)."""
    return _means(x.shape[2], size[0]) @ x @ _means(x.shape[3], size[1]).T


def _means(length: int, count: int) -> Tensor:
    """Matrix (count, length) that averages a line in `count` equal parts; positions they share count for both."""
    part, at = torch.arange(count)[:, None], torch.arange(length)[None]
    inside = (at >= part * length // count) & (at < ((part + 1) * length + count - 1) // count)
    return inside / inside.sum(1, keepdim=True)


def _free(inputs: Sequence[Port]) -> tuple[dict[int, Any] | None, ...]:
    """The lengths that torch shall leave open, by input and axis."""
    lengths: dict[str, Any] = {}
    found = []
    for port in inputs:
        axes = {}
        for axis, side in enumerate(port.shape):
            if isinstance(side, str):
                factor, symbol = int(side[:-1] or 1), side[-1]
                length = lengths.setdefault(symbol, torch.export.Dim(symbol, min=1, max=4096))
                axes[axis] = length if factor == 1 else factor * length
        found.append(axes or None)
    return tuple(found)


def _simplify(model: Any) -> None:
    """Fold constants. onnxscript's other rewriting loses the bounds of the second of two clips of one value (0.7)."""
    from onnx_ir.passes import common  # pyright: ignore[reportMissingImports]
    from onnxscript import optimizer  # pyright: ignore[reportMissingImports]

    common.InlinePass()(model)
    optimizer.fold_constants(model)
    for step in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.NameFixPass(),
    ):
        step(model)


def _strip(model: Any) -> None:
    """Take out where in the source each node comes from: paths of this machine, half of a small graph."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:], model.functions[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def _in_half_precision(model: Any, *, rounded: bool) -> None:
    from onnx import TensorProto, helper, numpy_helper  # pyright: ignore[reportMissingImports]

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < LEAST or not (rounded and np.isfinite(half).all() or np.array_equal(half, values)):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs and warns about what is no concern of ours."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
