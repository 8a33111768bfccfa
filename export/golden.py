"""Choose the golden sentences of a student: sure and hard ones, short and long ones, of each locale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from service.student.calibration import UNCALIBRATED, LocaleCalibration, by_locale
from service.student.golden import golden_answer
from service.student.manifest import GOLDEN_TOLERANCE, Calibration, Golden
from service.student.predictor import Predictor
from training.data.utterances import Utterance

# Tolerance of 8-bit weights, whose sums saturate on CPUs without VNNI: there, the log odds of the shipped `s` differ by
# up to 0.48 in 165 sentences. 7-bit weights give the same bits on both.
SATURATING_TOLERANCE = 0.6
CONFIDENT = 0.5
SURE, HARD = 2, 3  # golden sentences of a locale, besides its shortest and its longest


class Candidate(NamedTuple):
    """A sentence with its answer.

    `margin` is the smallest difference between the calibrated logits of the best and the second label, of any head
    and word; `confidence` is the smallest confidence; `right` is whether domain and intent are those of the data.
    """

    golden: Golden
    margin: float
    confidence: float
    right: bool


def tolerance_of(precision: str, any_cpu: bool) -> float:
    """The tolerance of golden confidences for a graph, in log odds."""
    return GOLDEN_TOLERANCE if precision == "fp32" or any_cpu else SATURATING_TOLERANCE


def choose_golden(
    predictor: Predictor, utterances: Iterable[Utterance], tolerance: float, calibration: Calibration | None = None
) -> tuple[Golden, ...]:
    """Choose golden sentences of each locale: a few sure ones, a few hard ones, the shortest and the longest.

    A damaged graph changes the confidences of hard sentences more than those of sure ones. Each label keeps its
    distance to the next one, so that no healthy machine gives another label. If no sentence does, the one that comes
    closest is chosen.
    """
    scales = by_locale(calibration)
    found: dict[str, list[Candidate]] = {}
    for utterance in {(each.locale, each.text): each for each in utterances}.values():
        of_locale = scales.get(utterance.locale, UNCALIBRATED)
        found.setdefault(utterance.locale, []).append(_candidate(predictor, utterance, of_locale))
    chosen: list[Golden] = []
    for candidates in found.values():
        stable = [candidate for candidate in candidates if candidate.margin >= 2 * tolerance]
        chosen += [candidate.golden for candidate in _choose(stable)]
    if not chosen:
        chosen = [max((one for all_ in found.values() for one in all_), key=lambda one: one.margin).golden]
    return tuple(chosen)


def _candidate(predictor: Predictor, utterance: Utterance, scales: LocaleCalibration) -> Candidate:
    golden = golden_answer(predictor, utterance.text, utterance.locale)
    confidences = [golden.domain_confidence, golden.intent_confidence, *(slot.confidence for slot in golden.slots)]
    right = golden.domain in (utterance.domain, None) and golden.intent in (utterance.intent, None)
    confidence = min((each for each in confidences if each is not None), default=0.0)
    return Candidate(golden, _margin(predictor, utterance.text, scales), confidence, right)


def _margin(predictor: Predictor, text: str, scales: LocaleCalibration) -> float:
    encoded = predictor.encoder.encode(text)
    logits = predictor.logits(encoded)
    margins = []
    for head in predictor.labels.heads:
        of_head = logits[head].take(encoded.first_tokens, 0) if head == "slots" else logits[head]
        if of_head.shape[-1] > 1 and of_head.size:
            ordered = np.sort(of_head, axis=-1)
            margins.append(float((ordered[..., -1] - ordered[..., -2]).min()) * getattr(scales, head))
    return min(margins, default=0.0)


def _choose(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Sure ones, hard ones, the shortest and the longest; no sentence twice."""
    left = list(candidates)

    def take(count: int, key: Callable[[Candidate, bool], Any]) -> Iterator[Candidate]:
        """Take those with the largest key, which also depends on whether the intent is a new one."""
        intents: set[str | None] = set()
        for _ in range(min(count, len(left))):
            best = max(left, key=lambda one: key(one, one.golden.intent not in intents))
            intents.add(best.golden.intent)
            left.remove(best)
            yield best

    yield from take(SURE, lambda one, new: (one.confidence >= CONFIDENT, one.right, new, one.confidence))
    yield from take(HARD, lambda one, new: (new, -one.margin))
    yield from take(1, lambda one, _: -len(one.golden.tokens))
    yield from take(1, lambda one, _: len(one.golden.tokens))
