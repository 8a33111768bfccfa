"""Confidences that mean something: temperatures by task and locale, and how the words of a slot make up its confidence.

One temperature divides the logits of a head (Guo et al. 2017, "On Calibration of Modern Neural Networks"); it never
changes the ranking. For slots it is fitted to whether a found slot is exactly right.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.observation import Slots, Texts
from service.student.decoding import FloatArray, softmax
from service.student.manifest import PROFILE_BINS, Head, Labels, Profile
from training.data.utterances import Utterance

log = logging.getLogger("export.onnx")

BINS = 15
LEAST = 50  # labelled texts or slots; of fewer nothing is fitted
TEMPERATURES = (0.1, 10.0)
SEARCH_STEPS = 25
CERTAIN = 1e-7  # a confidence is kept so far from 0 and 1 where its logarithm is taken

TEXT_HEADS: Final[tuple[Literal["domain", "intent"], ...]] = ("domain", "intent")
Combination = Literal["minimum", "product"]
WHEN = ("before", "after")
COMBINATIONS: Final[dict[Combination, Any]] = {"minimum": np.minimum, "product": np.multiply}
Found = TypeVar("Found", bound="Answers")


class Answers(Protocol):
    """Answers of one kind, whose confidence depends on a temperature."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right, [answers]."""

    def confidences(self, temperature: float) -> NDArray[np.float64]:
        """The confidence of each answer, [answers], in 0..1."""

    def loss(self, temperature: float) -> float:
        """Mean negative log likelihood of what is right."""

    def take(self, chosen: NDArray[np.bool_]) -> Answers:
        """Some of the answers; `chosen` is [answers]."""


@dataclass(frozen=True)
class LabelAnswers:
    """The best labels of texts: `logits` [texts, labels], `targets` [texts] the number of the right label."""

    logits: FloatArray
    targets: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """As `Answers`."""
        right: NDArray[np.bool_] = self.logits.argmax(axis=-1) == self.targets
        return right

    def confidences(self, temperature: float) -> NDArray[np.float64]:
        """As `Answers`."""
        best: NDArray[np.float64] = softmax(self.logits / temperature).max(axis=-1).astype(np.float64)
        return best

    def loss(self, temperature: float) -> float:
        """As `Answers`."""
        of_target = (self.logits - self.logits.max(axis=-1, keepdims=True)) / temperature
        chosen = np.take_along_axis(of_target, self.targets[:, None], axis=-1)[:, 0]
        return float((np.log(np.exp(of_target).sum(axis=-1)) - chosen).mean())

    def take(self, chosen: NDArray[np.bool_]) -> LabelAnswers:
        """As `Answers`."""
        return LabelAnswers(self.logits[chosen], self.targets[chosen])


@dataclass(frozen=True)
class SlotAnswers:
    """Found slots, their confidence made up of those of their words."""

    slots: Slots
    combination: Combination

    @property
    def right(self) -> NDArray[np.bool_]:
        """As `Answers`."""
        return self.slots.right

    def confidences(self, temperature: float) -> NDArray[np.float64]:
        """As `Answers`."""
        of_words = softmax(self.slots.words / temperature).max(axis=-1).astype(np.float64)
        combined: NDArray[np.float64] = COMBINATIONS[self.combination].reduceat(of_words, self.slots.begins)
        return combined

    def loss(self, temperature: float) -> float:
        """As `Answers`: of two outcomes, right and wrong."""
        sure = self.confidences(temperature).clip(CERTAIN, 1 - CERTAIN)
        return float(-np.log(np.where(self.right, sure, 1 - sure)).mean())

    def take(self, chosen: NDArray[np.bool_]) -> SlotAnswers:
        """As `Answers`."""
        lengths = np.diff(self.slots.begins, append=len(self.slots.words))
        begins = np.cumsum(lengths[chosen]) - lengths[chosen]
        return SlotAnswers(
            Slots(self.slots.words[np.repeat(chosen, lengths)], begins, self.slots.right[chosen]), self.combination
        )


class Confidences(NamedTuple):
    """What is fitted: temperatures by head and locale, the slots' combination; and calibration errors for people.

    `errors` are by head and locale, before and after; `combinations` the slots' mean error after, by combination.
    """

    temperatures: dict[Head, dict[str, float]]
    slot_confidence: Combination
    errors: dict[str, dict[str, dict[str, float]]]
    combinations: dict[str, float]


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


def halves(count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two halves of so many, by a fixed seed."""
    first: NDArray[np.bool_] = np.random.default_rng(0).permutation(count) < count // 2
    return first, ~first


def cross_fitted_error(answers: Answers) -> float:
    """Calibration error after fitting, not flattered: each half is read with the temperature of the other."""
    confidences = np.empty(len(answers.right))
    first, second = halves(len(confidences))
    for one, other in ((first, second), (second, first)):
        confidences[other] = answers.take(other).confidences(fit_temperature(answers.take(one)))
    return expected_calibration_error(confidences, answers.right)


def fit_confidences(
    labels: Labels,
    utterances: Mapping[str, Sequence[Utterance]],
    texts: Mapping[str, Texts],
    slots: Mapping[str, Slots],
) -> Confidences:
    """Temperatures of the heads in the locales that have enough labels, and the better combination for slots.

    By locale: labelled utterances, and what the graph said of them. A label that the student doesn't know is left out,
    as no label is.
    """
    temperatures: dict[Head, dict[str, float]] = {}
    errors: dict[str, dict[str, dict[str, float]]] = {}
    for head in TEXT_HEADS:
        if names := getattr(labels, head):
            answers = _enough(head, {x: _label_answers(texts[x], utterances[x], head, names) for x in utterances})
            if not answers:
                continue
            temperatures[head] = {}
            errors[head] = {}
            for locale, of_head in answers.items():
                before, fitted = _error(of_head), cross_fitted_error(of_head)
                helps = fitted < before  # what smoothed labels and teachers bend, one temperature may bend further
                temperatures[head][locale] = fit_temperature(of_head) if helps else 1.0
                errors[head][locale] = _rounded({"before": before, "after": min(before, fitted)})
    plain = _enough("slots", {locale: SlotAnswers(found, "minimum") for locale, found in slots.items()})
    if not plain:
        return Confidences(temperatures, "minimum", errors, {})
    options = {name: {x: SlotAnswers(found.slots, name) for x, found in plain.items()} for name in COMBINATIONS}
    after = {name: {x: cross_fitted_error(found) for x, found in option.items()} for name, option in options.items()}
    means: dict[str, float] = {name: float(np.mean(list(by_locale.values()))) for name, by_locale in after.items()}
    best = min(COMBINATIONS, key=lambda name: means[name])
    temperatures["slots"] = {locale: fit_temperature(found) for locale, found in options[best].items()}
    errors["slots"] = {x: _rounded({"before": _error(found), "after": after[best][x]}) for x, found in plain.items()}
    return Confidences(temperatures, best, errors, _rounded(means))


def mean_errors(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Calibration errors by head, before and after, as means over the locales; from those by head and locale."""
    return {
        head: _rounded({when: float(np.mean([found[when] for found in by_locale.values()])) for when in WHEN})
        for head, by_locale in errors.items()
    }


def profiles(labels: Labels, texts: Mapping[str, Texts], confidences: Confidences) -> dict[str, Profile]:
    """What the student says of the texts of each locale, read with its temperatures; of too few texts nothing."""
    head = scope_head(labels)
    return {
        locale: Profile(
            texts=len(found.logits[head]),
            domains=_shares_of_domains(found, labels),
            confidence=_histogram(found.logits[head], confidences.temperatures.get(head, {}).get(locale, 1.0)),
        )
        for locale, found in texts.items()
        if head and len(found.logits[head]) >= LEAST
    }


def scope_head(labels: Labels) -> Literal["domain", "intent"] | None:
    """The head that scope and drift are judged by: the intents, the domains where there are none."""
    return "intent" if labels.intent else "domain" if labels.domain else None


def _label_answers(texts: Texts, utterances: Sequence[Utterance], head: str, names: Sequence[str]) -> LabelAnswers:
    numbers = {name: number for number, name in enumerate(names)}
    targets = np.array([numbers.get(getattr(utterance, head), -1) for utterance in utterances], np.int64)
    return LabelAnswers(texts.logits[head], targets).take(targets >= 0)


def _enough(head: str, answers: dict[str, Found]) -> dict[str, Found]:
    """The locales with enough answers for a fit; the others are said in a log line."""
    few = {locale: len(found.right) for locale, found in answers.items() if len(found.right) < LEAST}
    if few:
        log.warning(
            "%s: temperature 1, fewer than %d labels: %s", head, LEAST, ", ".join(f"{x} ({n})" for x, n in few.items())
        )
    return {locale: found for locale, found in answers.items() if locale not in few}


def _error(answers: Answers) -> float:
    return expected_calibration_error(answers.confidences(1.0), answers.right)


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def _shares_of_domains(texts: Texts, labels: Labels) -> dict[str, float]:
    if not labels.domain:
        return {}
    counts = np.bincount(texts.logits["domain"].argmax(axis=-1), minlength=len(labels.domain))
    return {name: round(int(n) / int(counts.sum()), 6) for name, n in zip(labels.domain, counts, strict=True)}


def _histogram(logits: FloatArray, temperature: float) -> tuple[float, ...]:
    sure = softmax(logits / temperature).max(axis=-1)
    counts, _ = np.histogram(sure, bins=PROFILE_BINS, range=(0.0, 1.0))
    return tuple(round(int(n) / len(sure), 6) for n in counts)
