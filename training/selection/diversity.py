"""Choosing texts that are uncertain and unlike each other: farthest-first traversal, weighted by uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 512  # texts compared with all known ones at once

Floats = NDArray[np.float64]


def select(weights: Sequence[float], features: Any, count: int, known: Any = None) -> list[int]:
    """The rows of `count` texts, in the order in which they are chosen.

    `features` [texts, features] is a sparse matrix with rows of norm 1, or 0. The next text is the one with the largest
    product of its weight and its distance, 1 - cosine, from the nearest text that is chosen already or `known` ([known,
    features]). So a text much like a chosen one is left to others, however uncertain it is. Equal ones: the first.
    """
    weight = np.asarray(weights, dtype=np.float64)
    nearest = _nearest(features, known)
    chosen: list[int] = []
    free = np.ones(len(weight), dtype=bool)
    for _ in range(min(count, len(weight))):
        worth = np.where(free, weight * (1.0 - nearest), -1.0)
        best = int(worth.argmax())
        chosen.append(best)
        free[best] = False
        nearest = np.maximum(nearest, _dense(features @ features[best].T)[:, 0])
    return chosen


def _nearest(features: Any, known: Any) -> Floats:
    """The cosine of each text with the nearest known one, 0 without any."""
    found = np.zeros(features.shape[0])
    if known is None or not known.shape[0]:
        return found
    for start in range(0, len(found), BLOCK):
        block = features[start : start + BLOCK] @ known.T
        found[start : start + BLOCK] = _dense(block.max(axis=1))[:, 0]
    return np.minimum(found, 1.0)


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.toarray(), dtype=np.float64)
