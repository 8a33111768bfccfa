"""Confidences that mean something: what a graph says of labelled text, and temperatures that are fitted to it.

One temperature divides the logits of a head in a locale (Guo et al. 2017, "On Calibration of Modern Neural Networks");
it never changes the ranking. For slots it is fitted to whether a found slot is exactly right.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.data import ExportData, by_locale
from export.graph import FEATURES
from service.student.decoding import FloatArray, decode_slots, softmax
from service.student.manifest import PROFILE_BINS, Head, Labels, Profile
from service.student.predictor import Predictor
from training.data.utterances import Utterance

log = logging.getLogger(__name__)

BINS = 15
MIN_TEXTS = 50  # labelled texts or slots; nothing is fitted to fewer
MIN_DOUBT = 1e-7  # distance of a confidence from 0 and 1 where its logarithm is taken
TEMPERATURES = (0.1, 10.0)
SEARCH_STEPS = 25

TextHead = Literal["domain", "intent"]
TEXT_HEADS: Final[tuple[TextHead, ...]] = ("domain", "intent")
Combination = Literal["minimum", "product"]
COMBINATIONS: Final[dict[Combination, Any]] = {"minimum": np.minimum, "product": np.multiply}
Texts = dict[str, FloatArray]  # outputs of a graph for some texts: [texts, labels] by head, `FEATURES` [texts, width]
progress = partial(tqdm, desc="calibrating", unit="utt", leave=False, disable=None)


@dataclass(frozen=True)
class Answers:
    """Answers of one kind, whose confidence depends on a temperature: labels of texts, or found slots.

    `logits` are [words, labels] of all answers one after the other, `begins` [answers] the row of each one's first word
    (a text is one word). `right` [answers] says whether an answer is right. `targets` [answers] are the numbers of the
    right labels, of texts alone. The confidence of an answer of several words is a `combination` of theirs.
    """

    logits: FloatArray
    begins: NDArray[np.int64]
    right: NDArray[np.bool_]
    targets: NDArray[np.int64] | None = None
    combination: Combination = "minimum"

    @classmethod
    def of_labels(cls, logits: FloatArray, targets: NDArray[np.int64]) -> Answers:
        """The best labels of texts, from `logits` [texts, labels]."""
        return cls(logits, np.arange(len(logits)), logits.argmax(axis=-1) == targets, targets)

    def confidences(self, temperature: float) -> NDArray[np.float64]:
        """The confidence of each answer, [answers], in 0..1."""
        of_words = softmax(self.logits / temperature).max(axis=-1).astype(np.float64)
        combined: NDArray[np.float64] = COMBINATIONS[self.combination].reduceat(of_words, self.begins)
        return combined

    def loss(self, temperature: float) -> float:
        """Mean negative log likelihood: of the right labels, or of a slot's being right or wrong."""
        if self.targets is None:
            sure = self.confidences(temperature).clip(MIN_DOUBT, 1 - MIN_DOUBT)
            return float(-np.log(np.where(self.right, sure, 1 - sure)).mean())
        shifted = (self.logits - self.logits.max(axis=-1, keepdims=True)) / temperature
        of_target = np.take_along_axis(shifted, self.targets[:, None], axis=-1)[:, 0]
        return float((np.log(np.exp(shifted).sum(axis=-1)) - of_target).mean())

    def take(self, chosen: NDArray[np.bool_]) -> Answers:
        """Some of the answers; `chosen` is [answers]."""
        lengths = np.diff(self.begins, append=len(self.logits))
        begins = np.cumsum(lengths[chosen]) - lengths[chosen]
        targets = None if self.targets is None else self.targets[chosen]
        return Answers(self.logits[np.repeat(chosen, lengths)], begins, self.right[chosen], targets, self.combination)


@dataclass(frozen=True)
class Observations:
    """What a graph says: everything that calibration and scope are fitted to; all but `train` by locale.

    `answers` are by head as well. `requests` are the labelled texts, `typed` their copies with capitals and
    punctuation. `out_of_scope` is by source as well. `train` are features and classes of training texts, if any.
    """

    answers: dict[Head, dict[str, Answers]]
    requests: dict[str, Texts]
    typed: dict[str, Texts]
    out_of_scope: dict[str, dict[str, Texts]]
    train: tuple[FloatArray, NDArray[np.int64]] | None


def halves(count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two halves of so many, by a fixed seed."""
    first: NDArray[np.bool_] = np.random.default_rng(0).permutation(count) < count // 2
    return first, ~first


def scope_head(labels: Labels) -> TextHead | None:
    """The head that scope and drift are judged by: the intents, the domains where there are none."""
    return "intent" if labels.intent else "domain" if labels.domain else None


def observe(predictor: Predictor, data: ExportData) -> Observations:
    """Run the graph on all texts, one at a time as the service does.

    A label that the student doesn't know is left out of the answers, as a missing one is.
    """
    labels, labelled = predictor.labels, by_locale(data.utterances)
    requests, typed = (
        {locale: read_texts(predictor, [u.text for u in found]) for locale, found in by_locale(utterances).items()}
        for utterances in (data.utterances, data.typed)
    )
    answers: dict[Head, dict[str, Answers]] = {}
    train = None
    for head in TEXT_HEADS:
        if numbers := {name: number for number, name in enumerate(getattr(labels, head))}:
            answers[head] = {}
            for locale, found in labelled.items():
                targets = np.array([numbers.get(getattr(u, head), -1) for u in found], np.int64)
                known = targets >= 0
                answers[head][locale] = Answers.of_labels(requests[locale][head][known], targets[known])
            if head == scope_head(labels) and (found := [u for u in data.train if getattr(u, head) in numbers]):
                classes = np.array([numbers[getattr(u, head)] for u in found], np.int64)
                train = read_texts(predictor, [u.text for u in found])[FEATURES], classes
    if labels.slots:
        answers["slots"] = {locale: read_slots(predictor, found) for locale, found in labelled.items()}
    out_of_scope = {
        locale: {source: read_texts(predictor, found) for source, found in sources.items()}
        for locale, sources in data.out_of_scope.items()
    }
    return Observations(answers, requests, typed, out_of_scope, train)


def read_texts(predictor: Predictor, texts: Sequence[str]) -> Texts:
    """Logits of domain and intent, as far as the graph has them, and features."""
    rows: dict[str, list[FloatArray]] = {}
    for text in progress(texts):
        for name, row in predictor.logits(predictor.encoder.encode(text)).items():
            if name != "slots":
                rows.setdefault(name, []).append(row[0])
    return {name: np.array(values) for name, values in rows.items()}


def read_slots(predictor: Predictor, utterances: Sequence[Utterance]) -> Answers:
    """The slots found in utterances, compared with their own.

    A reference slot that the student's words can't express is found by none, so what is found there is wrong.
    """
    tags = predictor.labels.slots
    words: list[FloatArray] = []
    begins: list[int] = []
    right: list[bool] = []
    for utterance in progress(utterances):
        encoded = predictor.encoder.encode(utterance.text)
        if not encoded.words:
            continue
        at_words = predictor.logits(encoded)["slots"][0][encoded.first_pieces]
        expected = {(slot.name, slot.start, slot.end) for slot in utterance.slots}
        for slot in decode_slots(utterance.text, encoded.words, at_words, tags):
            begins.append(len(words))
            right.append((slot.name, slot.start, slot.end) in expected)
            inside = (start < slot.end and end > slot.start for start, end in encoded.words)
            words += [row for row, belongs in zip(at_words, inside, strict=True) if belongs]
    logits = np.array(words, np.float32).reshape(-1, len(tags))
    return Answers(logits, np.array(begins, np.int64), np.array(right, bool))


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


def fit_confidences(
    answers: Mapping[Head, Mapping[str, Answers]],
) -> tuple[dict[Head, dict[str, float]], Combination, dict[str, Any]]:
    """Fit temperatures to answers by head and locale, where there are enough, and choose a combination for slots.

    Returns:
        Temperatures by head and locale; the combination; and for people the calibration errors by head and locale, and
        the slots' mean error after fitting by combination.
    """
    temperatures: dict[Head, dict[str, float]] = {}
    errors: dict[str, dict[str, dict[str, float]]] = {}
    enough = {head: _enough(head, found) for head, found in answers.items()}
    for head in TEXT_HEADS:
        for locale, found in enough.get(head, {}).items():
            before, after = _error(found), cross_fitted_error(found)
            helps = after < before  # one temperature can't straighten what label smoothing and distillation bend
            temperatures.setdefault(head, {})[locale] = fit_temperature(found) if helps else 1.0
            errors.setdefault(head, {})[locale] = _rounded({"before": before, "after": min(before, after)})
    best: Combination = "minimum"
    means: dict[str, float] = {}
    if plain := enough.get("slots"):
        options = {name: {x: replace(found, combination=name) for x, found in plain.items()} for name in COMBINATIONS}
        afters = {name: {x: cross_fitted_error(found) for x, found in fit.items()} for name, fit in options.items()}
        means = {name: float(np.mean(list(found.values()))) for name, found in afters.items()}
        best = min(COMBINATIONS, key=lambda name: means[name])
        temperatures["slots"] = {x: fit_temperature(found) for x, found in options[best].items()}
        errors["slots"] = {x: _rounded({"before": _error(plain[x]), "after": afters[best][x]}) for x in plain}
    return temperatures, best, {"expected_calibration_error": errors, "slot_confidence": _rounded(means)}


def mean_errors(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Calibration errors by head, before and after, as means over the locales; from those by head and locale."""
    return {
        head: _rounded({x: float(np.mean([found[x] for found in by_locale.values()])) for x in ("before", "after")})
        for head, by_locale in errors.items()
    }


def profiles(
    labels: Labels, texts: Mapping[str, Texts], temperatures: Mapping[Head, Mapping[str, float]]
) -> dict[str, Profile]:
    """What the student says of the texts of each locale, calibrated; of too few texts nothing."""
    head, found = scope_head(labels), {}
    for locale, said in texts.items():
        if not head or (count := len(said[head])) < MIN_TEXTS:
            continue
        sure = softmax(said[head] / temperatures.get(head, {}).get(locale, 1.0)).max(axis=-1)
        bins, _ = np.histogram(sure, bins=PROFILE_BINS, range=(0.0, 1.0))
        predicted = said["domain"].argmax(axis=-1) if labels.domain else np.array([], np.int64)
        domains = np.bincount(predicted, minlength=len(labels.domain))
        found[locale] = Profile(
            texts=count,
            domains={name: round(int(n) / count, 6) for name, n in zip(labels.domain, domains, strict=True)},
            confidence=tuple(round(int(n) / count, 6) for n in bins),
        )
    return found


def _enough(head: str, answers: Mapping[str, Answers]) -> dict[str, Answers]:
    """The locales with enough answers for a fit; the others are named in a log line."""
    few = [f"{locale} ({len(found.right)})" for locale, found in answers.items() if len(found.right) < MIN_TEXTS]
    if few:
        log.warning("%s: temperature 1, fewer than %d labels: %s", head, MIN_TEXTS, ", ".join(few))
    return {locale: found for locale, found in answers.items() if len(found.right) >= MIN_TEXTS}


def _error(answers: Answers) -> float:
    return expected_calibration_error(answers.confidences(1.0), answers.right)


def _rounded(values: Mapping[Any, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
