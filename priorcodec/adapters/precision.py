"""A model in float32 for one image: what to do when half precision overflows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def upcast_to_float32(module: nn.Module) -> Iterator[None]:
    """Every narrower floating weight and buffer of `module` in float32 inside the block; outside the very same ones again.

    Takes memory for both copies while it lasts; not for several threads at once.
    """
    narrow = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and t.itemsize < 4]
    kept = [(tensor, tensor.data) for tensor in narrow]
    try:
        for tensor in narrow:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
