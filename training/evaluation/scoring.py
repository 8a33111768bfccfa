"""Metrics of quality: pure functions from references and predictions to figures, each with the definition it uses.

Slots are compared at the words of the reference text: white-space tokens, and single characters for locales that
MASSIVE scores so. A word belongs to the slot that covers its first labelled character. Utterances without a label count
for none of the metrics of that label.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.student.decoding import spans_of_tags
from service.student.manifest import OUTSIDE
from training.data.labels import tags_of
from training.data.utterances import Slot, Utterance

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
        self.size = len(references)
        first = answers[0]
        self._has = {
            "domain": first.domain is not None and any(u.domain for u in references),
            "intent": first.intent is not None and any(u.intent for u in references),
            "slots": first.slots is not None,
        }
        named = {u.domain for u in references} | {a.domain for a in answers if first.domain is not None}
        index = {name: i for i, name in enumerate(sorted(name for name in named if name))}
        self._domains = len(index)
        outcomes = [_outcome(u, a, index) for u, a in zip(references, answers, strict=True)]
        self._domain_pairs = np.array([o.domains for o in outcomes])
        self._right = {head: np.array([getattr(o, head) for o in outcomes]) for head in ("domain", "intent", "slots")}
        self._strict = np.array([o.strict for o in outcomes])
        self._massive = np.array([o.massive for o in outcomes])
        self._semer = np.array([o.semer for o in outcomes])

    def metrics(self) -> dict[str, float]:
        """Every metric that the model's heads allow, in percent, over all utterances."""
        return {name: metric(np.arange(self.size)) for name, metric in self._metrics().items()}

    def resampled(self, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, NDArray[np.float64]]:
        """Each metric on bootstrap samples of the utterances (Efron 1979), [resamples], in percent.

        Sets of one size are resampled alike for one seed, so parallel sets (same ids, same order) stay paired.
        """
        draws = np.random.default_rng(seed).integers(0, self.size, size=(resamples, self.size))
        return {name: np.array([metric(rows) for rows in draws]) for name, metric in self._metrics().items()}

    def exact_matches(self) -> NDArray[np.float64]:
        """Whether intent and every tag are right, [utterances]: 1 or 0, NaN where the reference has no intent."""
        matches: NDArray[np.float64] = self._right["intent"] * self._right["slots"]
        return matches

    def _metrics(self) -> dict[str, Callable[[NDArray[np.int64]], float]]:
        """Metric by name, as a function of the rows that it is computed on."""
        right, has = self._right, self._has
        result: dict[str, Callable[[NDArray[np.int64]], float]] = {}

        def share(outcomes: NDArray[np.float64]) -> Callable[[NDArray[np.int64]], float]:
            return lambda rows: 100 * float(np.nanmean(outcomes[rows]))

        if has["domain"]:
            result["domain_accuracy"] = share(right["domain"])
            result["domain_f1"] = lambda rows: 100 * macro_f1(self._domain_pairs[rows], self._domains)
        if has["intent"]:
            result["intent_accuracy"] = share(right["intent"])
            result["icer"] = share(1 - right["intent"])
        if has["slots"]:
            result["slot_f1"] = lambda rows: 100 * f1(*self._massive[rows].sum(axis=0))
            result["slot_f1_strict"] = lambda rows: 100 * f1(*self._strict[rows].sum(axis=0))
        if has["intent"] and has["slots"]:
            result["exact_match"] = share(right["intent"] * right["slots"])
            result["semer"] = lambda rows: (
                100 * float(np.nansum(self._semer[rows, 0]) / np.nansum(self._semer[rows, 1]))
            )
        if all(has.values()):
            result["irer"] = share(1 - right["domain"] * right["intent"] * right["slots"])
        return result


class _Outcome(NamedTuple):
    """What one answer got right: 1 or 0, NaN where the reference has no such label."""

    domains: tuple[int, int]
    domain: float
    intent: float
    slots: float
    strict: SpanCounts
    massive: SpanCounts
    semer: tuple[float, float]


def _outcome(utterance: Utterance, answer: Answer, index: dict[str, int]) -> _Outcome:
    words = reference_words(utterance.text, utterance.locale)
    expected, found = tags_of(words, utterance.slots), tags_of(words, answer.slots or ())
    domains = (index.get(utterance.domain or "", -1), index.get(answer.domain or "", -1))
    return _Outcome(
        domains=domains if utterance.domain else (-1, -1),
        domain=float(answer.domain == utterance.domain) if utterance.domain else math.nan,
        intent=float(answer.intent == utterance.intent) if utterance.intent else math.nan,
        slots=float(massive_spans(expected) == massive_spans(found)),
        strict=count_spans(strict_spans(expected), strict_spans(found)),
        massive=count_spans(massive_spans(expected), massive_spans(found)),
        semer=semantic_errors(utterance, answer) if utterance.intent else (math.nan, math.nan),
    )


def macro_f1(pairs: NDArray[np.int64], classes: int) -> float:
    """Mean over the classes of F1, in 0..1; `pairs` is [utterances, 2] of (reference, predicted) indices.

    A reference of -1 means that the utterance has no label; it is left out.
    Classes that occur neither in the reference nor in the predictions are left out, as scikit-learn does.
    """
    labelled = pairs[pairs[:, 0] >= 0]
    correct = np.bincount(labelled[labelled[:, 0] == labelled[:, 1], 0], minlength=classes)
    both = np.bincount(labelled[:, 0], minlength=classes) + np.bincount(labelled[:, 1], minlength=classes)
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


@dataclass(frozen=True)
class Scorecard:
    """Every metric per locale and for their mean, in percent, with what resamples of the utterances say of each.

    Attributes:
        sizes: utterances by locale.
        points: by locale and metric.
        samples: likewise, each [resamples]. Where the locales hold the same ids, as in MASSIVE, a sentence is drawn in
            all of them or in none, so that means can be taken over them.
        exact: `Scores.exact_matches` by locale, the utterances in order of their ids.
        over: the locales whose mean is taken: `MEAN_LOCALES` as far as they are there, else all.
    """

    sizes: dict[str, int]
    points: dict[str, dict[str, float]]
    samples: dict[str, dict[str, NDArray[np.float64]]]
    exact: dict[str, NDArray[np.float64]]
    over: list[str]

    @classmethod
    def of(cls, references: Sequence[Utterance], answers: Sequence[Answer]) -> Scorecard:
        """Score answers, which have the order of the references."""
        card = cls({}, {}, {}, {}, [])
        for locale in dict.fromkeys(u.locale for u in references):
            rows = sorted((i for i, u in enumerate(references) if u.locale == locale), key=lambda i: references[i].id)
            scores = Scores([references[i] for i in rows], [answers[i] for i in rows])
            card.sizes[locale] = len(rows)
            card.points[locale], card.samples[locale] = scores.metrics(), scores.resampled()
            card.exact[locale] = scores.exact_matches()
        card.over.extend([x for x in MEAN_LOCALES if x in card.points] or list(card.points))
        return card

    def mean(self) -> dict[str, float]:
        """The mean of each metric."""
        return mean_over_locales(self.points, self.over)

    def mean_samples(self) -> dict[str, NDArray[np.float64]]:
        """The mean of each metric on each resample, [resamples]."""
        return {
            name: np.mean([self.samples[locale][name] for locale in self.over], axis=0)
            for name in self.points[self.over[0]]
        }

    def report(self) -> dict[str, Any]:
        """Metrics as [value, low, high], with 95 % intervals.

        Returns {"utterances": {locale: count}, "locales": {locale: {metric: [...]}}, "mean": {metric: [...]},
        "mean_over": [...]}.
        """
        return {
            "utterances": self.sizes,
            "locales": {x: _with_intervals(self.points[x], self.samples[x]) for x in self.points},
            "mean": _with_intervals(self.mean(), self.mean_samples()),
            "mean_over": self.over,
        }


def _with_intervals(points: dict[str, float], samples: dict[str, NDArray[np.float64]]) -> dict[str, list[float]]:
    return {name: [round(x, 3) for x in (value, *interval(samples[name]))] for name, value in points.items()}


def score_by_locale(references: Sequence[Utterance], answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Metrics in percent per locale, and under "mean" their mean over `MEAN_LOCALES`."""
    by_locale = {}
    for locale in dict.fromkeys(u.locale for u in references):
        rows = [i for i, u in enumerate(references) if u.locale == locale]
        by_locale[locale] = Scores([references[i] for i in rows], [answers[i] for i in rows]).metrics()
    return {**by_locale, "mean": mean_over_locales(by_locale)}
