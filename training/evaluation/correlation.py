"""Correlation of clustered points, such as the domains of several languages, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]

from training.evaluation.effects import ENDS, RESAMPLES, SEED
from training.evaluation.scoring import Floats

MIN_CLUSTERS = 5  # domains that the interval of a correlation needs
MIN_POINT_UTTERANCES = 20  # that a domain needs in a locale to be a point of a correlation


@dataclass(frozen=True)
class Correlation:
    """A coefficient with its 95 % interval, None where there are too few domains for one."""

    value: float
    low: float | None
    high: float | None


def correlate(x: Floats, y: Floats, clusters: Sequence[Any], resamples: int = RESAMPLES) -> dict[str, Correlation]:
    """Pearson's and Spearman's correlation with 95 % percentile intervals.

    Whole clusters are resampled: the same domain in four languages is not four independent points. `x`, `y` and the
    `clusters` that the points belong to are [points]. Returns {"pearson": ..., "spearman": ...}, empty where either
    side is constant or has fewer than three points.
    """
    members = [np.flatnonzero(np.array(clusters) == name) for name in dict.fromkeys(clusters)]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {}
    samples = [_coefficients(x, y)]
    if len(members) >= MIN_CLUSTERS:
        draws = np.random.default_rng([SEED, 2]).integers(0, len(members), size=(resamples, len(members)))
        resampled = (np.concatenate([members[i] for i in draw]) for draw in draws)
        samples += [_coefficients(x[rows], y[rows]) for rows in resampled]
    values = zip(("pearson", "spearman"), np.array(samples).T, strict=True)
    return {name: _correlation(found[0], found[1:]) for name, found in values}


def _coefficients(x: Floats, y: Floats) -> tuple[float, float]:
    """Pearson's and Spearman's coefficient, NaN where either side is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    return float(np.corrcoef(x, y)[0, 1]), float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _correlation(point: float, samples: Floats) -> Correlation:
    finite = samples[np.isfinite(samples)]
    low, high = np.percentile(finite, ENDS).tolist() if len(finite) else (None, None)
    return Correlation(float(point), low, high)
