"""How sure a correlation is between points that come in clusters, as the domains of several languages do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.evaluation.effects import ENDS, RESAMPLES, SEED, Floats

FEWEST_CLUSTERS = 5  # domains, below which a correlation has no interval
FEWEST_POINT_UTTERANCES = 20  # in a domain of a locale, below which it is no point of a correlation


@dataclass(frozen=True)
class Correlation:
    """A coefficient with its 95 % interval, None where there are too few domains for one."""

    value: float
    low: float | None
    high: float | None


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's coefficient, -1 to 1; NaN where either side is constant."""
    a, b = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, float(a @ b) / scale)) if scale > 0 else math.nan


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def correlate(x: Floats, y: Floats, clusters: Sequence[Any], resamples: int = RESAMPLES) -> dict[str, Correlation]:
    """Pearson's and Spearman's correlation with 95 % percentile intervals.

    Whole clusters are resampled: the same domain in four languages is not four independent points.

    Args:
        x: [points].
        y: [points].
        clusters: what the points belong to, [points].
        resamples: how many.

    Returns:
        {"pearson": ..., "spearman": ...}, empty where either side is constant or has fewer than three points.
    """
    members = [np.flatnonzero(np.array(clusters) == name) for name in dict.fromkeys(clusters)]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {}
    samples: list[tuple[float, float]] = []
    if len(members) >= FEWEST_CLUSTERS:
        generator = np.random.default_rng([SEED, 2])
        for draw in generator.integers(0, len(members), size=(resamples, len(members))):
            rows = np.concatenate([members[i] for i in draw])
            samples.append((pearson(x[rows], y[rows]), pearson(ranks(x[rows]), ranks(y[rows]))))
    points = {"pearson": pearson(x, y), "spearman": pearson(ranks(x), ranks(y))}
    return {name: _correlation(point, [s[i] for s in samples]) for i, (name, point) in enumerate(points.items())}


def _correlation(point: float, samples: Sequence[float]) -> Correlation:
    finite = [value for value in samples if math.isfinite(value)]
    if not finite:
        return Correlation(point, None, None)
    low, high = np.percentile(finite, ENDS)
    return Correlation(point, float(low), float(high))
