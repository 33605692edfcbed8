"""Regions of an image for the structure layer, chosen by the encoder: clusters of features with a price on borders. numpy only.

    minimize  sum over cells |f - mean of its region|^2  +  border * (pairs of neighbors in two regions)  +  region * (regions)
k-means gives the first labels; iterated conditional modes (Besag 1986) and merging of the pair of regions that pays most then
take turns. Regions need not be connected. The result may differ between machines: it is written in the file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from priorcodec.core.layers.structure import Labels, canonical

CLUSTERS = 20  # at first
ROUNDS = 6  # of k-means
DIAGONAL = 0.7  # weight of diagonal neighbors against the direct ones
NEIGHBORS = [(dy, dx, 1.0 if 0 in (dy, dx) else DIAGONAL) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]

Features = NDArray[np.float32]


def segment(features: Features, *, border: float, region: float) -> Labels:
    """Features (rows, columns, d) -> a canonical map.

    Args:
        features: Scaled so that their squared differences add up to one error.
        border: Price of a pair of direct neighbors in two regions.
        region: Price of a region.
    """
    labels = _kmeans(features)
    for _ in range(4):
        labels = _modes(features, labels, border)
    while True:
        merged = _merged(features, labels, border, region)
        if merged is None:
            return canonical(labels)
        labels = _modes(features, merged, border)


def _kmeans(features: Features) -> NDArray[np.intp]:
    rows, columns, d = features.shape
    flat = features.reshape(-1, d)
    centers = [flat.mean(0)]
    nearest = _distance(flat, centers[0])
    # Farthest first, a quarter of the way toward the mean: outliers weigh less.
    for _ in range(min(CLUSTERS, len(flat)) - 1):
        far = flat[int(nearest.argmax())]
        centers.append(0.75 * far + 0.25 * centers[0])
        nearest = np.minimum(nearest, _distance(flat, centers[-1]))
    labels = np.zeros(len(flat), np.intp)
    for _ in range(ROUNDS):
        labels = _errors(flat, np.stack(centers)).argmin(1)
        found = np.unique(labels)
        centers = [flat[labels == label].mean(0) for label in found]
    return _compact(labels).reshape(rows, columns)


def _modes(features: Features, labels: NDArray[np.intp], border: float) -> NDArray[np.intp]:
    """One sweep: every cell takes its best label, four sets of cells in turn that are no neighbors of each other."""
    labels = _compact(labels)
    means = _means(features, labels)
    errors = _errors(features.reshape(-1, features.shape[2]), means).reshape(*labels.shape, -1)
    for top in (0, 1):
        for left in (0, 1):
            cost = errors - border * _votes(labels, len(means))
            part = np.s_[top::2, left::2]
            labels[part] = cost[part].argmin(-1)
    return labels


def _merged(features: Features, labels: NDArray[np.intp], border: float, region: float) -> NDArray[np.intp] | None:
    """The map with the pair of regions merged that lowers the objective most; None if no pair does."""
    labels = _compact(labels)
    means, count = _means(features, labels), np.bincount(labels.reshape(-1)).astype(np.float64)
    if len(means) == 1:
        return None
    shared = np.zeros((len(means), len(means)))
    votes = _votes(labels, len(means)).reshape(-1, len(means))
    np.add.at(shared, labels.reshape(-1), votes)  # each pair of neighbors is seen from both sides
    error = count[:, None] * count / (count[:, None] + count) * np.square(means[:, None] - means).sum(-1)
    change = error - border * shared - region
    np.fill_diagonal(change, np.inf)
    a, b = np.unravel_index(int(change.argmin()), change.shape)
    return np.where(labels == b, a, labels) if change[a, b] < 0 else None


def _votes(labels: NDArray[np.intp], count: int) -> NDArray[np.float32]:
    """How many neighbors of each cell have each label, (rows, columns, count); the border repeats."""
    one = np.eye(count, dtype=np.float32)[np.pad(labels, 1, mode="edge")]
    rows, columns = labels.shape
    total = np.zeros((rows, columns, count), np.float32)
    for dy, dx, weight in NEIGHBORS:
        total += weight * one[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]
    return total


def _means(features: Features, labels: NDArray[np.intp]) -> NDArray[np.float64]:
    flat = labels.reshape(-1)
    total = np.stack([np.bincount(flat, f) for f in features.reshape(-1, features.shape[2]).T], 1)
    return total / np.bincount(flat)[:, None]


def _errors(flat: NDArray, centers: NDArray) -> NDArray:
    return np.stack([_distance(flat, center) for center in centers], 1)


def _distance(flat: NDArray, center: NDArray) -> NDArray:
    return np.square(flat - center.astype(flat.dtype)).sum(1)


def _compact(labels: NDArray) -> NDArray[np.intp]:
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.intp)
