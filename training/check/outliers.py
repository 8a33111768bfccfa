"""Texts unlike all others: the hundredth of each language that is least similar to its nearest texts.

TF-IDF vectors (`training.check.classifier`) are projected to their main directions. What a text does not share with
many others is lost there, so an outlier's projection is short, and its similarity to every text small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD

from training.check.classifier import Progress, features_of
from training.check.findings import Finding
from training.check.texts import grouped, language_of
from training.data.utterances import Utterance

DIMENSIONS = 128
NEIGHBOURS = 5
MIN_TEXTS = 100  # of a language
SHARE = 0.01  # of the texts of a language
BLOCK = 512  # rows compared at a time, for bounded memory


def outliers(utterances: Sequence[Utterance], seed: int, progress: Progress = lambda _: None) -> list[Finding]:
    """The texts of each language whose mean similarity to their nearest neighbours is lowest, in its order."""
    found: list[tuple[float, int, int]] = []
    for language, rows in grouped(range(len(utterances)), lambda row: language_of(utterances[row].locale)).items():
        if len(rows) < MIN_TEXTS:
            continue
        progress(f"{language}: nearest texts")
        similarity, nearest = _neighbours([utterances[row].text for row in rows], seed)
        lowest = np.argsort(similarity, kind="stable")[: int(SHARE * len(rows))].tolist()
        found += [(float(similarity[i]), rows[i], rows[nearest[i]]) for i in lowest]
    found.sort()
    return [
        Finding(
            f"similarity {value:.2f} to its nearest texts", (row,), {"similarity": round(value, 4)}, ((row, other),)
        )
        for value, row, other in found
    ]


def _neighbours(texts: Sequence[str], seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each text the mean similarity to its nearest neighbours, and the nearest of them."""
    features = features_of(texts)
    dimensions = min(DIMENSIONS, features.shape[1] - 1)
    vectors = TruncatedSVD(dimensions, n_iter=2, random_state=seed).fit_transform(features)
    means, nearest = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
    for start in range(0, len(texts), BLOCK):
        similarity = vectors[start : start + BLOCK] @ vectors.T
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        nearest[start + own] = similarity.argmax(axis=1)
        means[start + own] = np.partition(similarity, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(axis=1)
    return means, nearest
