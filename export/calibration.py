"""Confidences that mean something: temperatures by task and locale, and how the words of a slot make up its confidence.

One temperature divides the logits of a head (Guo et al. 2017, "On Calibration of Modern Neural Networks"); it never
changes the ranking. For slots it is fitted to whether a found slot is exactly right.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.data import ExportData
from export.observation import MIN_TEXTS, Observations, Slots, Texts, halves, observe, scope_head
from export.scope import ClassMeans, fit_scope
from service.student.decoding import FloatArray, softmax
from service.student.manifest import PROFILE_BINS, Calibration, Head, Labels, Profile
from service.student.predictor import Predictor

log = logging.getLogger(__name__)

BINS = 15
TEMPERATURES = (0.1, 10.0)
SEARCH_STEPS = 25
MIN_DOUBT = 1e-7  # distance of a confidence from 0 and 1 where its logarithm is taken

Combination = Literal["minimum", "product"]
COMBINATIONS: Final[dict[Combination, Any]] = {"minimum": np.minimum, "product": np.multiply}
ErrorsByLocale = dict[str, dict[str, float]]  # calibration errors "before" and "after" fitting, by locale


@dataclass(frozen=True)
class LabelAnswers:
    """The best labels of texts: `logits` [texts, labels], `targets` [texts] the number of the right label."""

    logits: FloatArray
    targets: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right, [texts]."""
        right: NDArray[np.bool_] = self.logits.argmax(axis=-1) == self.targets
        return right

    def confidences(self, temperature: float) -> NDArray[np.float64]:
        """The confidence of each answer, [texts], in 0..1."""
        best: NDArray[np.float64] = softmax(self.logits / temperature).max(axis=-1).astype(np.float64)
        return best

    def loss(self, temperature: float) -> float:
        """Mean negative log likelihood of the right labels."""
        shifted = (self.logits - self.logits.max(axis=-1, keepdims=True)) / temperature
        of_target = np.take_along_axis(shifted, self.targets[:, None], axis=-1)[:, 0]
        return float((np.log(np.exp(shifted).sum(axis=-1)) - of_target).mean())

    def take(self, chosen: NDArray[np.bool_]) -> LabelAnswers:
        """Some of the answers; `chosen` is [texts]."""
        return LabelAnswers(self.logits[chosen], self.targets[chosen])


@dataclass(frozen=True)
class SlotAnswers:
    """Found slots, their confidence made up of those of their words; methods as of `LabelAnswers`."""

    slots: Slots
    combination: Combination

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each slot is right, [slots]."""
        return self.slots.right

    def confidences(self, temperature: float) -> NDArray[np.float64]:
        """The confidence of each slot, [slots], in 0..1."""
        of_words = softmax(self.slots.words / temperature).max(axis=-1).astype(np.float64)
        combined: NDArray[np.float64] = COMBINATIONS[self.combination].reduceat(of_words, self.slots.begins)
        return combined

    def loss(self, temperature: float) -> float:
        """Mean negative log likelihood of two outcomes, right and wrong."""
        confidences = self.confidences(temperature).clip(MIN_DOUBT, 1 - MIN_DOUBT)
        return float(-np.log(np.where(self.right, confidences, 1 - confidences)).mean())

    def take(self, chosen: NDArray[np.bool_]) -> SlotAnswers:
        """Some of the slots; `chosen` is [slots]."""
        lengths = np.diff(self.slots.begins, append=len(self.slots.words))
        begins = np.cumsum(lengths[chosen]) - lengths[chosen]
        return SlotAnswers(
            Slots(self.slots.words[np.repeat(chosen, lengths)], begins, self.slots.right[chosen]), self.combination
        )


Answers = LabelAnswers | SlotAnswers
Found = TypeVar("Found", LabelAnswers, SlotAnswers)


class Confidences(NamedTuple):
    """What is fitted: temperatures by head and locale, the slots' combination; and calibration errors for people.

    `errors` are by head and locale, before and after; `combinations` the slots' mean error after, by combination.
    """

    temperatures: dict[Head, dict[str, float]]
    slot_confidence: Combination
    errors: dict[str, ErrorsByLocale]
    combinations: dict[str, float]


def calibrate(predictor: Predictor, data: ExportData, rate: float) -> tuple[Calibration | None, ClassMeans | None]:
    """Confidences, scope and profiles of a graph, and the class means that it must be given for them.

    None where there is too little text for any of it. `rate` is the share of requests that scope may reject.
    """
    labels, observed = predictor.labels, observe(predictor, data)
    confidences = fit_confidences(labels, observed)
    fitted = fit_scope(labels, observed, confidences.temperatures, rate)
    if not confidences.temperatures and fitted is None:
        return None, None
    calibration = Calibration(
        data=data.source,
        partition=data.partition,
        temperatures=confidences.temperatures,
        slot_confidence=confidences.slot_confidence,
        scope=fitted.scope if fitted else None,
        profile=profiles(labels, observed.requests, confidences),
        measured={
            "expected_calibration_error": confidences.errors,
            "slot_confidence": confidences.combinations,
            **(fitted.measured if fitted else {}),
        },
    )
    return calibration, fitted.means if fitted else None


def expected_calibration_error(confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over equal bins of confidence, weighted by size (Naeini et al. 2015).

    Both are [answers], at least one; the result is in 0..1.
    """
    numbers = np.minimum((confidences * bins).astype(int), bins - 1)
    gaps = np.bincount(numbers, weights=confidences - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def fit_temperature(answers: Answers) -> float:
    """The temperature of least loss within `TEMPERATURES`, by golden-section search over its logarithm."""
    ratio = (math.sqrt(5) - 1) / 2

    def loss(exponent: float) -> float:
        return answers.loss(math.exp(exponent))

    low, high = (math.log(end) for end in TEMPERATURES)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    of_left, of_right = loss(left), loss(right)
    for _ in range(SEARCH_STEPS):
        if of_left < of_right:
            high, right, of_right = right, left, of_left
            left = high - ratio * (high - low)
            of_left = loss(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + ratio * (high - low)
            of_right = loss(right)
    return round(math.exp((low + high) / 2), 4)


def cross_fitted_error(answers: Answers) -> float:
    """Calibration error after fitting, not flattered: each half is read with the temperature of the other."""
    confidences = np.empty(len(answers.right))
    first, second = halves(len(confidences))
    for one, other in ((first, second), (second, first)):
        confidences[other] = answers.take(other).confidences(fit_temperature(answers.take(one)))
    return expected_calibration_error(confidences, answers.right)


def fit_confidences(labels: Labels, observed: Observations) -> Confidences:
    """Temperatures of the heads in the locales that have enough labels, and the better combination for slots.

    A label that the student doesn't know is left out, as a missing one is.
    """
    temperatures: dict[Head, dict[str, float]] = {}
    errors: dict[str, ErrorsByLocale] = {}
    for head in _label_heads(labels):
        for locale, answers in _enough(head, _label_answers(labels, head, observed)).items():
            before, after = _error(answers), cross_fitted_error(answers)
            helps = after < before  # one temperature can't straighten what label smoothing and distillation bend
            temperatures.setdefault(head, {})[locale] = fit_temperature(answers) if helps else 1.0
            errors.setdefault(head, {})[locale] = _rounded({"before": before, "after": min(before, after)})
    plain = _enough("slots", {locale: SlotAnswers(found, "minimum") for locale, found in observed.slots.items()})
    if not plain:
        return Confidences(temperatures, "minimum", errors, {})
    options = {name: {x: SlotAnswers(found.slots, name) for x, found in plain.items()} for name in COMBINATIONS}
    after_by = {name: {x: cross_fitted_error(found) for x, found in option.items()} for name, option in options.items()}
    means = {name: float(np.mean(list(found.values()))) for name, found in after_by.items()}
    best = min(COMBINATIONS, key=lambda name: means[name])
    temperatures["slots"] = {locale: fit_temperature(found) for locale, found in options[best].items()}
    errors["slots"] = {x: _rounded({"before": _error(found), "after": after_by[best][x]}) for x, found in plain.items()}
    return Confidences(temperatures, best, errors, _rounded(means))


def mean_errors(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Calibration errors by head, before and after, as means over the locales; from those by head and locale."""
    return {
        head: _rounded({x: float(np.mean([found[x] for found in by_locale.values()])) for x in ("before", "after")})
        for head, by_locale in errors.items()
    }


def profiles(labels: Labels, texts: Mapping[str, Texts], confidences: Confidences) -> dict[str, Profile]:
    """What the student says of the texts of each locale, calibrated; of too few texts nothing."""
    head = scope_head(labels)
    return {
        locale: Profile(
            texts=len(found.logits[head]),
            domains=_shares_of_domains(found, labels),
            confidence=_histogram(found.logits[head], confidences.temperatures.get(head, {}).get(locale, 1.0)),
        )
        for locale, found in texts.items()
        if head and len(found.logits[head]) >= MIN_TEXTS
    }


def _label_heads(labels: Labels) -> list[Literal["domain", "intent"]]:
    heads: tuple[Literal["domain", "intent"], ...] = ("domain", "intent")
    return [head for head in heads if getattr(labels, head)]


def _label_answers(labels: Labels, head: str, observed: Observations) -> dict[str, LabelAnswers]:
    numbers = {name: number for number, name in enumerate(getattr(labels, head))}
    answers = {}
    for locale, utterances in observed.utterances.items():
        targets = np.array([numbers.get(getattr(utterance, head), -1) for utterance in utterances], np.int64)
        answers[locale] = LabelAnswers(observed.requests[locale].logits[head], targets).take(targets >= 0)
    return answers


def _enough(head: str, answers: dict[str, Found]) -> dict[str, Found]:
    """The locales with enough answers for a fit; the others are named in a log line."""
    few = [f"{locale} ({len(found.right)})" for locale, found in answers.items() if len(found.right) < MIN_TEXTS]
    if few:
        log.warning("%s: temperature 1, fewer than %d labels: %s", head, MIN_TEXTS, ", ".join(few))
    return {locale: found for locale, found in answers.items() if len(found.right) >= MIN_TEXTS}


def _error(answers: Answers) -> float:
    return expected_calibration_error(answers.confidences(1.0), answers.right)


def _rounded(values: Mapping[Any, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def _shares_of_domains(texts: Texts, labels: Labels) -> dict[str, float]:
    if not labels.domain:
        return {}
    counts = np.bincount(texts.logits["domain"].argmax(axis=-1), minlength=len(labels.domain))
    return {name: round(int(n) / int(counts.sum()), 6) for name, n in zip(labels.domain, counts, strict=True)}


def _histogram(logits: FloatArray, temperature: float) -> tuple[float, ...]:
    confidences = softmax(logits / temperature).max(axis=-1)
    counts, _ = np.histogram(confidences, bins=PROFILE_BINS, range=(0.0, 1.0))
    return tuple(round(int(n) / len(confidences), 6) for n in counts)
