"""Temperature scaling: predictions of a graph on labelled text, and temperatures fitted to them.

A temperature divides the logits of one head in one locale (Guo et al. 2017, "On Calibration of Modern Neural
Networks"). It never changes the ranking. For slots it is fitted to whether a predicted slot is exactly right.
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
from service.student.decoding import FloatArray, decode_slots, softmax
from service.student.manifest import PROFILE_BINS, Head, Labels, Profile
from service.student.predictor import Predictor
from training.data.utterances import Utterance

log = logging.getLogger(__name__)

BINS = 15
MIN_TEXTS = 50  # labelled texts or slots that a fit needs
EPSILON = 1e-7  # minimum distance of a confidence from 0 and 1 in a logarithm
TEMPERATURES = (0.1, 10.0)
SEARCH_STEPS = 25

TextHead = Literal["domain", "intent"]
TEXT_HEADS: Final[tuple[TextHead, ...]] = ("domain", "intent")
Combination = Literal["minimum", "product"]
COMBINATIONS: Final[dict[Combination, Any]] = {"minimum": np.minimum, "product": np.multiply}
Texts = dict[str, FloatArray]  # logits [texts, labels] of domain and intent, as far as the graph has them
progress = partial(tqdm, desc="calibrating", unit="utt", leave=False, disable=None)


@dataclass(frozen=True)
class Outcomes:
    """Predictions of one head with their correctness: the labels of texts, or the predicted slots.

    `logits` [words, labels] are the logits of all predictions in sequence, `begins` [predictions] the row of the first
    word of each (the label of a text counts as one word). `right` [predictions] is whether a prediction is right.
    `targets` [predictions] are the numbers of the right labels; None for slots. `combination` is how the confidences of
    a slot's words are combined.
    """

    logits: FloatArray
    begins: NDArray[np.int64]
    right: NDArray[np.bool_]
    targets: NDArray[np.int64] | None = None
    combination: Combination = "minimum"

    @classmethod
    def of_labels(cls, logits: FloatArray, targets: NDArray[np.int64]) -> Outcomes:
        """The outcomes of the best labels of texts, from `logits` [texts, labels] and `targets` [texts]."""
        return cls(logits, np.arange(len(logits)), logits.argmax(axis=-1) == targets, targets)

    def confidences(self, temperature: float) -> NDArray[np.float64]:
        """The confidence of each prediction, [predictions], in 0..1."""
        of_words = softmax(self.logits / temperature).max(axis=-1).astype(np.float64)
        combined: NDArray[np.float64] = COMBINATIONS[self.combination].reduceat(of_words, self.begins)
        return combined

    def loss(self, temperature: float) -> float:
        """Mean negative log likelihood of the right labels, or of the correctness of slots."""
        if self.targets is None:
            confidences = self.confidences(temperature).clip(EPSILON, 1 - EPSILON)
            return float(-np.log(np.where(self.right, confidences, 1 - confidences)).mean())
        shifted = (self.logits - self.logits.max(axis=-1, keepdims=True)) / temperature
        of_target = np.take_along_axis(shifted, self.targets[:, None], axis=-1)[:, 0]
        return float((np.log(np.exp(shifted).sum(axis=-1)) - of_target).mean())

    def take(self, chosen: NDArray[np.bool_]) -> Outcomes:
        """A subset; `chosen` is [predictions]."""
        lengths = np.diff(self.begins, append=len(self.logits))
        begins = np.cumsum(lengths[chosen]) - lengths[chosen]
        targets = None if self.targets is None else self.targets[chosen]
        return Outcomes(self.logits[np.repeat(chosen, lengths)], begins, self.right[chosen], targets, self.combination)


@dataclass(frozen=True)
class Observations:
    """The outputs of a graph to which calibration and scope are fitted, by locale.

    `outcomes` are by head and locale. `requests` are the labelled texts, `typed` their copies with capitals and
    punctuation. `out_of_scope` is by locale and source.
    """

    outcomes: dict[Head, dict[str, Outcomes]]
    requests: dict[str, Texts]
    typed: dict[str, Texts]
    out_of_scope: dict[str, dict[str, Texts]]


def halves(count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks [count] of two random halves, with a fixed seed."""
    first: NDArray[np.bool_] = np.random.default_rng(0).permutation(count) < count // 2
    return first, ~first


def scope_head(labels: Labels) -> TextHead | None:
    """The head used for scope and drift: the intents, or the domains of a student without intents."""
    return "intent" if labels.intent else "domain" if labels.domain else None


def observe(predictor: Predictor, data: ExportData) -> Observations:
    """Run the graph on all texts, one at a time like the service.

    Texts without a label, or with a label that the student does not know, have no outcome.
    """
    labels, labelled = predictor.labels, by_locale(data.utterances)
    requests, typed = (
        {locale: read_texts(predictor, [u.text for u in found]) for locale, found in by_locale(utterances).items()}
        for utterances in (data.utterances, data.typed)
    )
    outcomes: dict[Head, dict[str, Outcomes]] = {}
    for head in TEXT_HEADS:
        if numbers := {name: number for number, name in enumerate(getattr(labels, head))}:
            outcomes[head] = {}
            for locale, found in labelled.items():
                targets = np.array([numbers.get(getattr(u, head), -1) for u in found], np.int64)
                known = targets >= 0
                outcomes[head][locale] = Outcomes.of_labels(requests[locale][head][known], targets[known])
    if labels.slots:
        outcomes["slots"] = {locale: read_slots(predictor, found) for locale, found in labelled.items()}
    out_of_scope = {
        locale: {source: read_texts(predictor, found) for source, found in sources.items()}
        for locale, sources in data.out_of_scope.items()
    }
    return Observations(outcomes, requests, typed, out_of_scope)


def read_texts(predictor: Predictor, texts: Sequence[str]) -> Texts:
    """Logits of domain and intent, as far as the graph has them."""
    rows: dict[str, list[FloatArray]] = {}
    for text in progress(texts):
        for head, row in predictor.logits(predictor.encoder.encode(text)).items():
            if head != "slots":
                rows.setdefault(head, []).append(row)
    return {head: np.array(values) for head, values in rows.items()}


def read_slots(predictor: Predictor, utterances: Sequence[Utterance]) -> Outcomes:
    """The predicted slots of utterances, compared with the reference slots.

    A reference slot whose edges are not those of words can't be predicted exactly: a prediction there is wrong.
    Utterances whose slots are not annotated are left out.
    """
    tags = predictor.labels.slots
    words: list[FloatArray] = []
    begins: list[int] = []
    right: list[bool] = []
    for utterance in progress(utterances):
        encoded = predictor.encoder.encode(utterance.text)
        if not encoded.words or not utterance.slots_annotated:
            continue
        at_words = predictor.logits(encoded)["slots"][encoded.first_tokens]
        expected = {(slot.name, slot.start, slot.end) for slot in utterance.slots}
        for slot in decode_slots(utterance.text, encoded.words, at_words, tags):
            begins.append(len(words))
            right.append((slot.name, slot.start, slot.end) in expected)
            inside = (start < slot.end and end > slot.start for start, end in encoded.words)
            words += [row for row, belongs in zip(at_words, inside, strict=True) if belongs]
    logits = np.array(words, np.float32).reshape(-1, len(tags))
    return Outcomes(logits, np.array(begins, np.int64), np.array(right, bool))


def expected_calibration_error(confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over equal bins of confidence, weighted by size (Naeini et al. 2015).

    Both arguments are [predictions], with at least one; the result is in 0..1.
    """
    numbers = np.minimum((confidences * bins).astype(int), bins - 1)
    gaps = np.bincount(numbers, weights=confidences - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def fit_temperature(outcomes: Outcomes) -> float:
    """The temperature of minimum loss within `TEMPERATURES`, by golden-section search over its logarithm."""
    ratio = (math.sqrt(5) - 1) / 2

    def loss(exponent: float) -> float:
        return outcomes.loss(math.exp(exponent))

    low, high = (math.log(end) for end in TEMPERATURES)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    for _ in range(SEARCH_STEPS):
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = loss(right)
    return round(math.exp((low + high) / 2), 4)


def cross_fitted_error(outcomes: Outcomes) -> float:
    """Calibration error after fitting, by two-fold cross-fitting: each half has the temperature of the other."""
    confidences = np.empty(len(outcomes.right))
    first, second = halves(len(confidences))
    for one, other in ((first, second), (second, first)):
        confidences[other] = outcomes.take(other).confidences(fit_temperature(outcomes.take(one)))
    return expected_calibration_error(confidences, outcomes.right)


def fit_confidences(
    outcomes: Mapping[Head, Mapping[str, Outcomes]],
) -> tuple[dict[Head, dict[str, float]], Combination, dict[str, Any]]:
    """Fit temperatures to outcomes by head and locale, if there are `MIN_TEXTS`, and choose a combination for slots.

    Returns:
        Temperatures by head and locale; the combination; and for the reports the calibration errors by head and locale,
        and the mean error of slots after fitting by combination.
    """
    temperatures: dict[Head, dict[str, float]] = {}
    errors: dict[str, dict[str, dict[str, float]]] = {}
    enough = {head: _with_enough(head, by_locale) for head, by_locale in outcomes.items()}
    for head in TEXT_HEADS:
        for locale, found in enough.get(head, {}).items():
            before, after = _error(found), cross_fitted_error(found)
            helps = after < before  # one temperature can't correct every distortion by label smoothing and distillation
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
    """The distribution of calibrated predictions on the texts of each locale with at least `MIN_TEXTS`."""
    head, found = scope_head(labels), {}
    for locale, outputs in texts.items():
        if not head or (count := len(outputs[head])) < MIN_TEXTS:
            continue
        confidences = softmax(outputs[head] / temperatures.get(head, {}).get(locale, 1.0)).max(axis=-1)
        bins, _ = np.histogram(confidences, bins=PROFILE_BINS, range=(0.0, 1.0))
        predicted = outputs["domain"].argmax(axis=-1) if labels.domain else np.array([], np.int64)
        domains = np.bincount(predicted, minlength=len(labels.domain))
        found[locale] = Profile(
            texts=count,
            domains={name: round(int(n) / count, 6) for name, n in zip(labels.domain, domains, strict=True)},
            confidence=tuple(round(int(n) / count, 6) for n in bins),
        )
    return found


def _with_enough(head: str, outcomes: Mapping[str, Outcomes]) -> dict[str, Outcomes]:
    """The locales with enough outcomes for a fit; a warning names the others."""
    few = [f"{locale} ({len(found.right)})" for locale, found in outcomes.items() if len(found.right) < MIN_TEXTS]
    if few:
        log.warning("%s: temperature stays 1 with fewer than %d labels: %s", head, MIN_TEXTS, ", ".join(few))
    return {locale: found for locale, found in outcomes.items() if len(found.right) >= MIN_TEXTS}


def _error(outcomes: Outcomes) -> float:
    return expected_calibration_error(outcomes.confidences(1.0), outcomes.right)


def _rounded(values: Mapping[Any, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
