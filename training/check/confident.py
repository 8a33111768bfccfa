"""Probable label errors by confident learning (Northcutt, Jiang and Chuang, 2021, JAIR 70), and confused labels.

The confident joint C[given, true] counts the rows with label `given` that confidently belong to `true`: their
probability of it is at least the mean probability of the rows that have that label. Calibrated to the number of rows of
each label, the entries off the diagonal say how many rows of a label are mislabelled; at most as many are taken, by
margin.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.check.classifier import Predictions
from training.check.findings import Finding

MIN_ROWS = 5  # of a label; with fewer the classifier learns nothing about it
MIN_MARGIN = 0.2  # of the likelier label's probability over the own one's; with less, most suspects are right
MIN_CONFUSED = 3  # utterances of two labels that the classifier takes for each other
MIN_CONFUSED_SHARE = 0.1  # of the utterances of the label that has fewer
SHOWN_PAIRS = 5


def label_errors(predictions: Sequence[Predictions], head: str) -> list[Finding]:
    """Utterances whose label of a head is probably wrong, the surest first."""
    suspects = []
    for found in predictions:
        margins = _margins(found)
        suspects += [(float(margins[i]), int(found.rows[i]), found, i) for i in _suspects(found, margins)]
    suspects.sort(key=lambda one: one[:2])
    findings = []
    for margin, row, found, i in suspects:
        likely, own = int(found.predicted[i]), int(found.given[i])
        probability, own_probability = (float(found.probabilities[i, k]) for k in (likely, own))
        message = (
            f"{head} {found.names[own]!r} ({own_probability:.0%}) may be {found.names[likely]!r} ({probability:.0%})"
        )
        details = {"given": found.names[own], "suggested": found.names[likely], "margin": round(margin, 4)}
        similar = _most_similar(found, i, likely)
        pairs = () if similar is None else ((row, similar),)
        findings.append(Finding(message, (row,), details, pairs))
    return findings


def confident_joint(given: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """The calibrated confident joint [labels, labels] of labels [rows] and probabilities [rows, labels].

    Row i adds up to the number of rows with label i.
    """
    count = probabilities.shape[1]
    totals = np.bincount(given, minlength=count)
    sums = np.bincount(given, weights=probabilities[np.arange(len(given)), given], minlength=count)
    thresholds = np.where(totals > 0, sums / np.maximum(totals, 1), 1.0)
    confident = probabilities >= np.maximum(thresholds, np.finfo(np.float32).tiny)
    likely = np.where(confident, probabilities, -1.0).argmax(axis=1)
    joint = np.zeros((count, count))
    is_counted = confident.any(axis=1)
    np.add.at(joint, (given[is_counted], likely[is_counted]), 1)
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = 1  # nothing is known of them
    joint[empty] = np.eye(count)[empty]
    scaled: NDArray[np.float64] = joint * (totals / joint.sum(axis=1))[:, None]
    return scaled


def confused(predictions: Sequence[Predictions], head: str) -> list[Finding]:
    """Pairs of labels that the classifier takes for each other, with utterances of both side by side."""
    findings = []
    for found in predictions:
        matrix = confusion_matrix(found)
        totals = matrix.sum(axis=1)
        for a, b in zip(*np.triu_indices(len(found.names), 1), strict=True):
            count = int(matrix[a, b] + matrix[b, a])
            share = count / max(1, min(totals[a], totals[b]))
            if count < MIN_CONFUSED or share < MIN_CONFUSED_SHARE:
                continue
            pairs = tuple(_side_by_side(found, int(a), int(b)))
            names = found.names[a], found.names[b]
            directions = (
                f"{matrix[a, b]} of {totals[a]} taken for the latter, {matrix[b, a]} of {totals[b]} for the former"
            )
            message = f"{names[0]} / {names[1]} ({found.language}): {directions}"
            rows = tuple(dict.fromkeys(row for pair in pairs for row in pair))
            details = {head: list(names), "language": found.language, "count": count, "share": round(float(share), 4)}
            findings.append(Finding(message, rows, details, pairs))
    return sorted(findings, key=lambda one: (-one.details["count"], one.message))


def confusion_matrix(found: Predictions) -> NDArray[np.int64]:
    """How many rows with a label (first axis) are predicted as a label (second axis)."""
    matrix = np.zeros((len(found.names), len(found.names)), np.int64)
    np.add.at(matrix, (found.given, found.predicted), 1)
    return matrix


def _margins(found: Predictions) -> NDArray[np.float32]:
    """Probability of the own label less that of the likeliest other one."""
    every = np.arange(len(found.rows))
    others = found.probabilities.copy()
    others[every, found.given] = -1
    return np.asarray(found.probabilities[every, found.given] - others.max(axis=1))


def _suspects(found: Predictions, margins: NDArray[np.float32]) -> list[int]:
    """Indices of rows that are probably mislabelled."""
    joint = confident_joint(found.given, found.probabilities)
    totals = np.bincount(found.given, minlength=len(found.names))
    suspects = []
    for own in np.flatnonzero(totals >= MIN_ROWS):
        rows = np.flatnonzero((found.given == own) & (margins <= -MIN_MARGIN))
        expected = totals[own] - joint[own, own]
        suspects += rows[np.argsort(margins[rows], kind="stable")][: round(float(expected))].tolist()
    return suspects


def _most_similar(found: Predictions, i: int, label: int) -> int | None:
    """The utterance of a label that is most similar to row i."""
    candidates = np.flatnonzero(found.given == label)
    if not len(candidates):
        return None
    similarity = (found.features[candidates] @ found.features[i].T).toarray().ravel()
    return int(found.rows[candidates[similarity.argmax()]])


def _side_by_side(found: Predictions, a: int, b: int) -> list[tuple[int, int]]:
    """Misread utterances of label a or b, each beside the most similar one of the other label; a's on the left."""
    pairs: list[tuple[int, int]] = []
    margins = _margins(found)
    for own, other in ((a, b), (b, a)):
        misread = np.flatnonzero((found.given == own) & (found.predicted == other))
        for i in misread[np.argsort(margins[misread], kind="stable")][: -(-SHOWN_PAIRS // 2)]:
            similar = _most_similar(found, int(i), other)
            if similar is not None:
                row = int(found.rows[i])
                pairs.append((row, similar) if own == a else (similar, row))
    return list(dict.fromkeys(pairs))[:SHOWN_PAIRS]
