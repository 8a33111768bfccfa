"""Choosing uncertain texts that are unlike each other: in order of uncertainty, near copies last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 512  # texts compared with all known ones at once
NEAR = 0.7  # cosine above which a text is a near copy

Floats = NDArray[np.float64]


def select(weights: Sequence[float], features: Any, count: int, known: Any = None) -> list[int]:
    """The rows of `count` texts, in the order in which they are chosen.

    `features` [texts, features] is a sparse matrix with rows of norm 1, or 0. Texts are chosen in order of their
    weights, the highest first. Those much like a chosen one, or like a `known` one ([known, features]), are left to the
    end. No text is preferred for being far from all others: that would choose outliers.
    """
    nearest = _nearest(features, known)
    chosen: list[int] = []
    copies: list[int] = []
    for row in np.argsort(-np.asarray(weights, dtype=np.float64), kind="stable").tolist():
        if len(chosen) == count:
            return chosen
        if nearest[row] > NEAR:
            copies.append(row)
            continue
        chosen.append(row)
        nearest = np.maximum(nearest, _dense(features @ features[row].T)[:, 0])
    return [*chosen, *copies][:count]


def _nearest(features: Any, known: Any) -> Floats:
    """The cosine of each text with the nearest known one, 0 without any."""
    found = np.zeros(features.shape[0])
    if known is None or not known.shape[0]:
        return found
    for start in range(0, len(found), BLOCK):
        block = features[start : start + BLOCK] @ known.T
        found[start : start + BLOCK] = _dense(block.max(axis=1))[:, 0]
    return found


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.toarray(), dtype=np.float64)
