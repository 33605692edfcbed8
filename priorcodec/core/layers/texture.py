"""The texture layer: a few values for each region, coded by an integer model across channels. numpy only.

    values (regions, 16) --step--> symbols, channel by channel --AnsCoder--> step index u8, string
A region has no neighbors, its channels have each other: mean and scale of a channel are linear in what is already decoded of the
same region and in the averages over all regions, and in the region's size (the cross-channel model of Chang et al., "Semantic
prior", with integers instead of a hyper-latent). docs/format.md specifies it.

The channels: mean of Y, Cb, Cr; change of Y to the right and downward; 11 learned features (`renderer.TextureEncoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.entropy.coder import CoderTables, Decoder, Encoder
from priorcodec.core.entropy.exact import LIMIT, ONE, WEIGHT_BITS
from priorcodec.core.errors import StreamError
from priorcodec.core.layers.structure import Labels

CHANNELS = 16
COLORS = 3  # of them: means of Y, Cb, Cr
PLANE = 5  # with the two slopes of Y
UNIT = (24.0, 12.0, 12.0, 24.0, 24.0)  # levels of 255 to a value of 1, of the channels that are not learned
STEPS = (32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024)  # in 1/256 of a value of 1
STEP = 4  # default index
TABLES = 24
SCALE_MIN = 0.15  # standard deviation of table 0 in steps; four tables double it
INPUTS = 2 * CHANNELS + 1

Values = NDArray[np.int32]
"""Values of regions (regions, CHANNELS) in 1/256."""


class TextureModel:
    """Codes the values of an image's regions exactly.

    Args:
        tables: `texture.*` of the weight file, without that prefix: see `sizes`.
    """

    def __init__(self, tables: Mapping[str, NDArray]):
        self._mean = tables["mean.weight"].astype(np.int64), tables["mean.bias"].astype(np.int64)
        self._scale = tables["scale.weight"].astype(np.int64), tables["scale.bias"].astype(np.int64)
        self.coder = CoderTables(tables, "t")

    def encode(self, values: NDArray[np.floating], areas: NDArray[np.integer], step: int = STEP) -> bytes:
        """Write a layer.

        Args:
            values: (regions, CHANNELS), in units.
            areas: Cells of each region.
            step: Index into `STEPS`.
        """
        coder, target = Encoder(), np.round(values * ONE)

        def rounded(channel: int, mean: NDArray[np.int64], index: NDArray[np.uint8]) -> NDArray[np.int64]:
            symbols = np.clip(np.round((target[:, channel] - mean) / STEPS[step]), -LIMIT, LIMIT).astype(np.int16)
            coder.add(symbols, index, self.coder)
            return symbols.astype(np.int64)

        self.walk(areas, step, rounded)
        return bytes([step]) + coder.finish()

    def decode(self, data: bytes, areas: NDArray[np.integer]) -> tuple[Values, int]:
        """The layer's bytes and the regions' sizes -> values and step index.

        Raises:
            StreamError: No step, an unknown one, impossible symbols, or bytes that do not end where the values end.
        """
        if not data or data[0] >= len(STEPS):
            got = data[0] if data else "missing"
            raise StreamError(
                f"the texture's step is {got}, wanted 0 to {len(STEPS) - 1}: the file is damaged or forged"
            )
        coder = Decoder(data[1:])
        values = self.walk(areas, data[0], lambda _, __, index: coder.take(index, self.coder).astype(np.int64))
        coder.finish()
        return values, data[0]

    def walk(
        self,
        areas: NDArray[np.integer],
        step: int,
        symbols_of: Callable[[int, NDArray[np.int64], NDArray[np.uint8]], NDArray[np.int64]],
    ) -> Values:
        """All channels in the order of coding. symbols_of: channel, means and tables (regions,) -> symbols (regions,)."""
        count = len(areas)
        known = np.zeros((count, INPUTS), np.int64)
        known[:, -1] = ONE * np.array([int(area).bit_length() - 1 for area in areas])
        for channel in range(CHANNELS):
            mean = np.clip(_linear(known, self._mean, channel), -LIMIT, LIMIT)
            level = _linear(np.abs(known), self._scale, channel)
            index = np.clip(((level + ONE // 2) >> 8) - 2 * step, 0, TABLES - 1).astype(np.uint8)
            value = np.clip(mean + STEPS[step] * symbols_of(channel, mean, index), -LIMIT, LIMIT)
            known[:, channel] = value
            known[:, CHANNELS + channel] = int(value.sum()) // count
        return known[:, :CHANNELS].astype(np.int32)


def _linear(known: NDArray[np.int64], layer: tuple[NDArray[np.int64], NDArray[np.int64]], channel: int) -> NDArray:
    weight, bias = layer
    return (known @ weight[channel] + bias[channel] + (1 << WEIGHT_BITS - 1)) >> WEIGHT_BITS


def areas(labels: Labels) -> NDArray[np.intp]:
    """Cells of each region of a canonical map."""
    return np.bincount(labels.reshape(-1))


def measure(labels: Labels, colors: NDArray[np.floating], features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Values of all regions, in units.

    Args:
        labels: Canonical map (rows, columns).
        colors: Mean Y, Cb, Cr of each cell in levels of 255, Cb and Cr less 128: (rows, columns, 3).
        features: Learned features of each cell (rows, columns, CHANNELS - PLANE).
    """
    flat, y = labels.reshape(-1), colors[..., 0].reshape(-1)
    planes = [colors[..., i] - 128 * (i == 0) for i in range(COLORS)]
    mean = [_means(flat, plane.reshape(-1)) for plane in planes]
    slopes = [_means(flat, (y - 128 - mean[0][flat]) * at) for at in positions(labels)]
    learned = [_means(flat, features[..., i].reshape(-1)) for i in range(CHANNELS - PLANE)]
    explicit = [value / unit for value, unit in zip([*mean, *slopes], UNIT, strict=True)]
    return np.stack([*explicit, *learned], 1)


def positions(labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each cell's column and row, less the region's mean, in the region's standard deviations (0 where that is 0), flat."""
    flat, found = labels.reshape(-1), []
    for at in np.indices(labels.shape)[::-1]:
        centered = at.reshape(-1) - _means(flat, at.reshape(-1))[flat]
        spread = np.sqrt(_means(flat, np.square(centered)))[flat]
        found.append(np.divide(centered, spread, out=np.zeros_like(centered), where=spread > 0))
    return found[0], found[1]


def painted(labels: Labels, values: Values) -> NDArray[np.float32]:
    """The renderer's input (CHANNELS, rows, columns): every cell has its region's values, Y with its slopes."""
    cells = (values / ONE)[labels.reshape(-1)]
    right, down = positions(labels)
    cells[:, 0] += right * cells[:, COLORS] + down * cells[:, COLORS + 1]
    return np.ascontiguousarray(cells.T.reshape(CHANNELS, *labels.shape), dtype=np.float32)


def _means(flat: NDArray[np.integer], value: NDArray) -> NDArray[np.float64]:
    return np.bincount(flat, value) / np.bincount(flat)


def sizes() -> dict[str, tuple[int, ...]]:
    """Shapes of the model's arrays but for the second side of t_cdf."""
    layer = {"weight": (CHANNELS, INPUTS), "bias": (CHANNELS,)}
    found = {f"{name}.{part}": shape for name in ("mean", "scale") for part, shape in layer.items()}
    return found | {"t_cdf": (TABLES, -1), "t_cdf_length": (TABLES,), "t_cdf_offset": (TABLES,)}
