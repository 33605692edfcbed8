"""The reference of the exact evaluation, layer by layer; the model itself is the package's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.exact import LIMIT, ONE, ExactLayer, pixel_shuffle
from priorcodec.core.entropy.tables import INDEX_BIAS, INDEX_GAIN, SCALES, Tables


def exact_parameters(
    tables: Tables, z_hat: NDArray[np.int16], values: NDArray[np.int16], quality: int, groups: Sequence[int]
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """The reference of the exact evaluation: what a coder must reproduce with integers.

    Args:
        tables: What `EntropyModel.tables` gave.
        z_hat: Decoded integers (h/4, w/4, m_h) in units of 1/ONE.
        values: The same of the latent, (h, w, m).
        quality: The file's byte.
        groups: Channels of each group.

    Returns:
        mean (units of 1/ONE) and index of every position, (h, w, m), each given the values decoded before it.
    """

    def layer(name: str, a: NDArray, *, relu: bool = True) -> NDArray[np.int16]:
        return ExactLayer(tables[f"{name}.weight"], tables[f"{name}.bias"], relu=relu)(a)

    a = np.clip(layer("h_s.0", z_hat).astype(np.int32) + tables["quality_bias"][quality], 0, LIMIT)
    phi = layer("h_s.3", pixel_shuffle(layer("h_s.2", pixel_shuffle(layer("h_s.1", a)))))
    rows, columns = np.indices(values.shape[:2])
    mask = ((rows + columns) % 2 == 0)[..., None]
    means, indices, start = [], [], 0
    for g, c in enumerate(groups):
        both = []
        own = np.where(mask, values[..., start : start + c], 0)
        for name, seen in (
            (f"anchor.{g}", values[..., :start]),
            (f"other.{g}", np.append(values[..., :start], own, 2)),
        ):
            inputs = np.append(phi, layer(f"{name}.context", seen, relu=False), 2) if seen.shape[2] else phi
            mean, index = np.split(layer(f"{name}.last", layer(f"{name}.first", inputs), relu=False), 2, axis=2)
            index = np.floor(index * (INDEX_GAIN / ONE) + 0.5) + INDEX_BIAS
            both.append((mean, np.clip(index, 0, SCALES - 1).astype(np.uint8)))
        means.append(np.where(mask, both[0][0], both[1][0]))
        indices.append(np.where(mask, both[0][1], both[1][1]))
        start += c
    return np.concatenate(means, 2), np.concatenate(indices, 2)
