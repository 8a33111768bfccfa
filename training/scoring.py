"""Metrics of quality: pure functions from references and predictions to figures, each with the definition it uses.

Slots are compared at the words of the reference text: white-space tokens, and single characters for locales that
MASSIVE scores so. A word belongs to the slot that covers its first labelled character.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.decoding import spans_of_tags
from service.manifest import OUTSIDE
from training.labels import tags_of
from training.records import Slot, Utterance

CHARACTER_LOCALES = ("ja-JP", "zh-CN", "zh-TW")
MEAN_LOCALES = ("de-DE", "fr-FR", "it-IT", "es-ES")
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of one utterance; a head that it doesn't have is None."""

    domain: str | None = None
    intent: str | None = None
    slots: tuple[Slot, ...] | None = None


class SpanCounts(NamedTuple):
    """Spans of one utterance or a sum of them."""

    correct: int
    predicted: int
    reference: int


def f1(correct: float, predicted: float, reference: float) -> float:
    """F1 = 2 c / (p + r) in 0..1; 1 where there is nothing to find and nothing was found."""
    return 2 * correct / (predicted + reference) if predicted + reference else 1.0


def reference_words(text: str, locale: str) -> list[tuple[int, int]]:
    """(start, end) of each word at which slots are scored."""
    words: list[tuple[int, int]] = []
    start = None
    for i, character in enumerate([*text, " "]):
        if character.isspace():
            if start is not None:
                words.append((start, i))
            start = None
        elif locale in CHARACTER_LOCALES:
            words.append((i, i + 1))
        elif start is None:
            start = i
    return words


def strict_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Spans of BIO tags: "B-" always begins one, so adjacent slots of one type stay two."""
    return spans_of_tags(tags)


def massive_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Spans as MASSIVE scores them: maximal runs of one label, so adjacent slots of one type merge."""
    return spans_of_tags([tag if tag == OUTSIDE else f"I-{tag[2:]}" for tag in tags])


def count_spans(reference: Iterable[tuple[str, int, int]], predicted: Iterable[tuple[str, int, int]]) -> SpanCounts:
    """Exact matches of (name, start, end)."""
    expected, found = set(reference), set(predicted)
    return SpanCounts(len(expected & found), len(found), len(expected))


def semantic_errors(utterance: Utterance, answer: Answer) -> tuple[int, int]:
    """Numerator and denominator of SemER (Su et al. 2018): (S + D + I + intent error, reference slots + 1).

    Slots are aligned by name and value: a pair of one name with different values is a substitution, a surplus
    reference a deletion, a surplus prediction an insertion.
    """
    expected: Counter[tuple[str, str]] = Counter((s.name, utterance.value(s)) for s in utterance.slots)
    found: Counter[tuple[str, str]] = Counter((s.name, utterance.value(s)) for s in answer.slots or ())
    missing, surplus = Counter[str](), Counter[str]()
    for (name, _), count in (expected - found).items():
        missing[name] += count
    for (name, _), count in (found - expected).items():
        surplus[name] += count
    substitutions = sum((missing & surplus).values())
    errors = missing.total() + surplus.total() - substitutions
    return errors + (answer.intent != utterance.intent), len(utterance.slots) + 1


class Scores:
    """Per-utterance outcomes of one set, from which each metric is computed, on all rows or on a resample."""

    def __init__(self, references: Sequence[Utterance], answers: Sequence[Answer]) -> None:
        """Compare; both sequences have the same order. Raises ValueError when they differ in length or are empty."""
        if len(references) != len(answers) or not references:
            raise ValueError(
                f"{len(references)} references and {len(answers)} answers; allowed: equally many, at least one"
            )
        first = answers[0]
        self.size = len(references)
        self.domains = sorted({u.domain for u in references if u.domain}) if first.domain is not None else []
        index = {name: i for i, name in enumerate(self.domains)}
        outside = len(self.domains)
        self._domain_pairs = np.array(
            [
                (index.get(u.domain or "", outside), index.get(a.domain or "", outside))
                for u, a in zip(references, answers, strict=True)
            ]
        )
        right: dict[str, list[bool]] = {"domain": [], "intent": [], "slots": []}
        strict, massive, semer = [], [], []
        for utterance, answer in zip(references, answers, strict=True):
            words = reference_words(utterance.text, utterance.locale)
            expected, found = tags_of(words, utterance.slots), tags_of(words, answer.slots or ())
            strict.append(count_spans(strict_spans(expected), strict_spans(found)))
            massive.append(count_spans(massive_spans(expected), massive_spans(found)))
            semer.append(semantic_errors(utterance, answer))
            right["domain"].append(answer.domain == utterance.domain)
            right["intent"].append(answer.intent == utterance.intent)
            right["slots"].append(massive_spans(expected) == massive_spans(found))
        self._right = {head: np.array(values) for head, values in right.items()}
        self._strict, self._massive, self._semer = np.array(strict), np.array(massive), np.array(semer)
        self._has = {
            "domain": first.domain is not None,
            "intent": first.intent is not None,
            "slots": first.slots is not None,
        }

    def metrics(self) -> dict[str, float]:
        """Every metric that the model's heads allow, in percent, over all utterances."""
        return {name: metric(np.arange(self.size)) for name, metric in self._metrics().items()}

    def resampled(self, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, NDArray[np.float64]]:
        """Each metric on bootstrap samples of the utterances (Efron 1979), [resamples], in percent.

        Sets of one size are resampled alike for one seed, so parallel sets (same ids, same order) stay paired.
        """
        draws = np.random.default_rng(seed).integers(0, self.size, size=(resamples, self.size))
        return {name: np.array([metric(rows) for rows in draws]) for name, metric in self._metrics().items()}

    def _metrics(self) -> dict[str, Callable[[NDArray[np.int64]], float]]:
        """Metric by name, as a function of the rows that it is computed on."""
        right, has = self._right, self._has
        result: dict[str, Callable[[NDArray[np.int64]], float]] = {}
        if has["domain"]:
            result["domain_accuracy"] = lambda rows: 100 * float(right["domain"][rows].mean())
            result["domain_f1"] = lambda rows: 100 * macro_f1(self._domain_pairs[rows], len(self.domains))
        if has["intent"]:
            result["intent_accuracy"] = lambda rows: 100 * float(right["intent"][rows].mean())
            result["icer"] = lambda rows: 100 - 100 * float(right["intent"][rows].mean())
        if has["slots"]:
            result["slot_f1"] = lambda rows: 100 * f1(*self._massive[rows].sum(axis=0))
            result["slot_f1_strict"] = lambda rows: 100 * f1(*self._strict[rows].sum(axis=0))
        if has["intent"] and has["slots"]:
            exact = right["intent"] & right["slots"]
            result["exact_match"] = lambda rows: 100 * float(exact[rows].mean())
            result["semer"] = lambda rows: 100 * float(self._semer[rows, 0].sum() / self._semer[rows, 1].sum())
        if all(has.values()):
            wrong = ~(right["domain"] & right["intent"] & right["slots"])
            result["irer"] = lambda rows: 100 * float(wrong[rows].mean())
        return result


def macro_f1(pairs: NDArray[np.int64], classes: int) -> float:
    """Mean over the classes of F1, in 0..1; `pairs` is [utterances, 2] of (reference, predicted) indices.

    Classes that occur neither in the reference nor in the predictions are left out, as scikit-learn does.
    """
    correct = np.bincount(pairs[pairs[:, 0] == pairs[:, 1], 0], minlength=classes + 1)[:classes]
    both = (np.bincount(pairs[:, 0], minlength=classes + 1) + np.bincount(pairs[:, 1], minlength=classes + 1))[:classes]
    present = both > 0
    return float((2 * correct[present] / both[present]).mean()) if present.any() else 1.0


def interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % percentile interval of resampled values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def mean_over_locales(
    by_locale: dict[str, dict[str, float]], locales: Sequence[str] = MEAN_LOCALES
) -> dict[str, float]:
    """The mean of each metric over those of `locales` that were scored, or over all where none was."""
    chosen = [by_locale[locale] for locale in locales if locale in by_locale] or list(by_locale.values())
    return {name: sum(scores[name] for scores in chosen) / len(chosen) for name in chosen[0]}


def score_by_locale(references: Sequence[Utterance], answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Metrics in percent per locale, and under "mean" their mean over `MEAN_LOCALES`."""
    by_locale = {}
    for locale in dict.fromkeys(u.locale for u in references):
        rows = [i for i, u in enumerate(references) if u.locale == locale]
        by_locale[locale] = Scores([references[i] for i in rows], [answers[i] for i in rows]).metrics()
    return {**by_locale, "mean": mean_over_locales(by_locale)}
