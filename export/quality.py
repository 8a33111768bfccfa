"""Effects of conversion and quantisation on logits, labels and quality, by locale."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from export.data import by_locale
from export.folder import ExportError
from service.student.predictor import OUTPUT_OF_HEAD, Predictor
from service.student.tokenization import Encoded
from training.data.utterances import Utterance
from training.evaluation.robustness import TypedSuite
from training.evaluation.scoring import PredictedLabels, score_by_locale
from training.models.prediction import answers_of_student
from training.models.student import StudentModel

log = logging.getLogger(__name__)

PARITY_SENTENCES = 500  # of each locale, at most
PARITY_TOLERANCE = 1e-3
TYPED_SENTENCES = 200  # of each locale, at most, for each way of typing


def first_of_each_locale(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """The first `count` utterances of each locale, locale by locale."""
    return [utterance for found in by_locale(utterances).values() for utterance in found[:count]]


def check_parity(model: StudentModel, fp32: Predictor, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """The number of sentences compared and the largest difference of a logit to PyTorch, by locale.

    Raises:
        ExportError: a difference exceeds `PARITY_TOLERANCE`.
    """
    checked = first_of_each_locale(utterances, PARITY_SENTENCES)
    log.info("comparing fp32 with PyTorch on %d sentences", len(checked))
    difference = logit_difference(model, fp32, checked)
    worst = float(np.max(list(difference.values())))  # NaN if there is one
    if not worst <= PARITY_TOLERANCE:
        raise ExportError(f"fp32 graph differs from PyTorch by {worst:.2g} in a logit; allowed: {PARITY_TOLERANCE}")
    return {
        "sentences": {locale: sum(u.locale == locale for u in checked) for locale in difference},
        "fp32_max_abs_logit_difference": {locale: float(f"{found:.3g}") for locale, found in difference.items()},
    }


def logit_difference(model: StudentModel, predictor: Predictor, utterances: Sequence[Utterance]) -> dict[str, float]:
    """Largest absolute difference of a logit between PyTorch and a graph, by locale; NaN if there is one.

    PyTorch batches sentences of equal length, which needs no padding.
    """
    same_length: dict[int, list[tuple[str, Encoded]]] = {}
    for utterance in utterances:
        encoded = predictor.encoder.encode(utterance.text)
        same_length.setdefault(len(encoded.ids), []).append((utterance.locale, encoded))
    largest: dict[str, float] = {}
    for rows in same_length.values():
        with torch.inference_mode():
            expected = model(torch.tensor([encoded.ids for _, encoded in rows]))
        for row, (locale, encoded) in enumerate(rows):
            differences = [
                np.abs(getattr(expected, OUTPUT_OF_HEAD[head])[row].numpy() - found).max()
                for head, found in predictor.logits(encoded).items()
            ]
            largest[locale] = float(np.max([largest.get(locale, 0.0), *differences]))
    return dict(sorted(largest.items()))


def agreement(
    utterances: Sequence[Utterance], one: Sequence[PredictedLabels], other: Sequence[PredictedLabels]
) -> dict[str, dict[str, float]]:
    """Percentage of utterances for which two graphs predict the same labels, by locale and head."""
    result: dict[str, dict[str, float]] = {}
    for locale in dict.fromkeys(u.locale for u in utterances):
        pairs = [(a, b) for u, a, b in zip(utterances, one, other, strict=True) if u.locale == locale]
        result[locale] = {
            head: round(100 * sum(getattr(a, head) == getattr(b, head) for a, b in pairs) / len(pairs), 2)
            for head in ("domain", "intent", "slots")
            if getattr(pairs[0][0], head) is not None
        }
    return result


def typed_drops(student: Predictor, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """What each way of typing costs the served graph, in points of a metric with 95 % intervals.

    Returns {"metric", "drops": {name: [points, low, high]}}, the largest first, on at most `TYPED_SENTENCES` of each
    locale.
    """
    suite = TypedSuite(utterances, limit=TYPED_SENTENCES)
    report = suite.report(answers_of_student(student, suite.texts))
    return {"metric": report["metric"], "drops": {name: row["drop"] for name, row in report["typed"].items()}}


def accuracy(utterances: Sequence[Utterance], answers: Mapping[str, Sequence[PredictedLabels]]) -> dict[str, Any]:
    """The metrics of the manifest, in percent, by name of the answers, locale and metric; None is not measured."""

    def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
        """Without ICER, which is 100 minus the intent accuracy."""
        kept = {metric: value for metric, value in values.items() if metric != "icer"}
        return {metric: None if value is None else round(value, 2) for metric, value in kept.items()}

    scores = {name: score_by_locale(utterances, found) for name, found in answers.items()}
    return {name: {locale: rounded(values) for locale, values in found.items()} for name, found in scores.items()}
