"""Metrics of quality, each defined once: from references and answers to figures in percent.

Slots are compared at the words of the reference text: runs between white space, or single characters for the locales
that MASSIVE scores so. A word with a slot's edge between two of its letters or digits counts as two words: "keller" is
not "kellerlicht". Marks at the edge of a value don't matter.

Utterances without a label are left out of the metrics of that label, and a metric without any is NaN (null in reports),
never 0 or 100. So is slot F1 where neither side has a slot. Slots that are not annotated are not the same as none
(`Utterance.slots_annotated`): metrics that need them count the annotated utterances alone. Where no utterance of the
set has them, exact match is the intent alone, IRER domain and intent, and `SLOTS_NOT_ANNOTATED` says so.

A weight matrix [1 + resamples, utterances] holds how often each utterance is drawn. Row 0 draws each once, so the first
of all computed values is that of the set itself; the others are those of bootstrap samples (Efron and Tibshirani, *An
Introduction to the Bootstrap*, 1993). Sets of one size get the same resamples, so parallel sets (same ids, same order)
stay paired.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.student.decoding import spans_of_tags
from service.student.manifest import OUTSIDE
from training.data.labels import tags_of
from training.data.offsets import is_inside_word
from training.data.utterances import Slot, Utterance

CHARACTER_LOCALES = ("ja-JP", "zh-CN", "zh-TW")
MEAN_LOCALES = ("de-DE", "fr-FR", "it-IT", "es-ES")
MEAN = "mean"  # beside the locales
RESAMPLES = 1000
PERCENT = 100.0
METRICS = {  # by name: the heads that it needs
    "domain_accuracy": ("domain",),
    "domain_f1": ("domain",),
    "intent_accuracy": ("intent",),
    "icer": ("intent",),
    "slot_f1": ("slots",),
    "slot_f1_strict": ("slots",),
    "exact_match": ("intent", "slots"),
    "semer": ("intent", "slots"),
    "irer": ("domain", "intent", "slots"),
}
WITHOUT_SLOTS = ("exact_match", "irer")  # metrics that are left where no slots are annotated
SLOTS_NOT_ANNOTATED = "no slots are annotated: slot metrics are not measured, exact match is the intent alone"
NOT_MEASURED = "–"  # in tables

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Weights = NDArray[np.float32]
Span = tuple[str, int, int]
Ratio = tuple[float, float]  # numerator and denominator of a metric; (0, 0) where the utterance is left out


@dataclass(frozen=True, slots=True)
class PredictedLabels:
    """A model's predictions for one utterance; None for a head that the model lacks."""

    domain: str | None = None
    intent: str | None = None
    slots: tuple[Slot, ...] | None = None


def reference_words(text: str, locale: str, slots: Iterable[Slot] = ()) -> list[tuple[int, int]]:
    """(start, end) of each word at which these slots, expected and predicted ones, are scored."""
    words = [match.span() for match in re.finditer(r"\S" if locale in CHARACTER_LOCALES else r"\S+", text)]
    edges = {edge for slot in slots for edge in (slot.start, slot.end) if is_inside_word(text, edge)}
    for edge in sorted(edges):
        for i, (start, end) in enumerate(words):
            if start < edge < end:
                words[i : i + 1] = [(start, edge), (edge, end)]
                break
    return words


def massive_spans(tags: Sequence[str]) -> list[Span]:
    """Spans as MASSIVE scores them: maximal runs of one label, so adjacent slots of one type merge."""
    return spans_of_tags([tag if tag == OUTSIDE else f"I-{tag[2:]}" for tag in tags])


def count_spans(reference: Iterable[Span], predicted: Iterable[Span]) -> tuple[int, int, int]:
    """Exact matches of (name, start, end), predicted spans and reference spans."""
    expected, found = set(reference), set(predicted)
    return len(expected & found), len(found), len(expected)


def semantic_errors(utterance: Utterance, answer: PredictedLabels) -> tuple[int, int]:
    """Numerator and denominator of SemER (Su et al. 2018): (S + D + I + intent error, reference slots + 1).

    Slots are aligned by name and value: a pair of one name with different values is a substitution, a surplus
    reference a deletion, a surplus prediction an insertion. Where slots are not annotated, only the intent counts.
    """
    if not utterance.slots_annotated:
        return int(answer.intent != utterance.intent), 1
    expected: Counter[tuple[str, str]] = Counter((s.name, utterance.value(s)) for s in utterance.slots)
    found: Counter[tuple[str, str]] = Counter((s.name, utterance.value(s)) for s in answer.slots or ())
    missing, surplus = (Counter(name for name, _ in x.elements()) for x in (expected - found, found - expected))
    errors = missing.total() + surplus.total() - (missing & surplus).total()  # less the substitutions
    return errors + (answer.intent != utterance.intent), len(utterance.slots) + 1


def weights_of(size: int, resamples: int, seed: int = 0) -> Weights:
    """How often each of `size` utterances is drawn, [1 + resamples, size]; row 0 draws each once."""
    draws = np.random.default_rng([seed, 0]).integers(0, size, size=(resamples, size))
    flat = (draws + size * np.arange(resamples)[:, None]).ravel()
    drawn = np.bincount(flat, minlength=resamples * size).reshape(resamples, size)
    return np.concatenate([np.ones((1, size), np.int64), drawn]).astype(np.float32)


def ratio(numerator: Floats, denominator: Floats, empty: float = math.nan) -> Floats:
    """Element by element; `empty` where the denominator is not above 0."""
    return np.divide(numerator, denominator, out=np.full_like(denominator, empty), where=denominator > 0)


def class_counts(expected: Ints, found: Ints, classes: int, weights: Weights) -> tuple[Floats, Floats]:
    """Right answers, and references plus predictions, [1 + resamples, classes + 1].

    A prediction of -1 is an extra class, the last, which is never right. Counts are integers, so float32 is exact.
    """
    one_hot = np.eye(classes + 1, dtype=np.float32)
    references, predictions = one_hot[expected], one_hot[np.where(found < 0, classes, found)]
    correct, both = weights @ (references * predictions), weights @ (references + predictions)
    return correct.astype(np.float64), both.astype(np.float64)


def macro_f1(expected: Ints, found: Ints, classes: int, weights: Weights) -> Floats:
    """Mean over the classes of F1 of weighted utterances, 0 to 1, [1 + resamples]; NaN where none is drawn.

    Classes that occur neither in the references nor in the predictions are left out, as scikit-learn does.
    """
    correct, both = class_counts(expected, found, classes, weights)
    return ratio(ratio(2 * correct, both, 0.0).sum(axis=1), (both > 0).sum(axis=1).astype(float))


def _share(value: float) -> Ratio:
    return (0, 0) if math.isnan(value) else (value, 1)


def _ratios_of(utterance: Utterance, answer: PredictedLabels, slots_count: bool) -> dict[str, Ratio]:
    """The numerator and denominator of one answer for each metric that is not macro-averaged.

    `slots_count`: whether exact match and IRER need slots, so that an utterance without annotated ones has neither.
    """
    annotated = utterance.slots_annotated
    words = reference_words(utterance.text, utterance.locale, (*utterance.slots, *(answer.slots or ())))
    expected, found = tags_of(words, utterance.slots), tags_of(words, answer.slots or ())
    merged = massive_spans(expected), massive_spans(found)
    domain = float(answer.domain == utterance.domain) if utterance.domain else math.nan
    intent = float(answer.intent == utterance.intent) if utterance.intent else math.nan
    exact = intent * (merged[0] == merged[1]) if annotated else math.nan if slots_count else intent
    strict, massive = count_spans(spans_of_tags(expected), spans_of_tags(found)), count_spans(*merged)
    semer = semantic_errors(utterance, answer)
    return {
        "domain_accuracy": _share(domain),
        "intent_accuracy": _share(intent),
        "icer": _share(1 - intent),
        "slot_f1": (2 * massive[0], massive[1] + massive[2]) if annotated else (0, 0),
        "slot_f1_strict": (2 * strict[0], strict[1] + strict[2]) if annotated else (0, 0),
        "exact_match": _share(exact),
        "semer": semer if annotated and utterance.intent else (0, 0),
        "irer": _share(1 - domain * exact),
    }


class Scores:
    """Every metric that the model's heads allow: `values`, in percent, [1 + resamples]; NaN where nothing is annotated.

    `exact`, [utterances], is 1 where intent and every tag are right, else 0; NaN where the reference lacks them.
    """

    def __init__(
        self,
        references: Sequence[Utterance],
        answers: Sequence[PredictedLabels],
        resamples: int = 0,
        slots_count: bool | None = None,
    ) -> None:
        """Compare; both sequences have the same order.

        `slots_count` is whether exact match and IRER need annotated slots, by default where any reference has them.
        Raises ValueError when the sequences differ in length or are empty.
        """
        if len(references) != len(answers) or not references:
            counts = f"{len(references)} references and {len(answers)} answers"
            raise ValueError(f"{counts}; allowed: equally many, at least one")
        first, weights = answers[0], weights_of(len(references), resamples)
        if slots_count is None:
            slots_count = any(u.slots_annotated for u in references)
        has = {head for head in ("domain", "intent", "slots") if getattr(first, head) is not None}
        rows = [_ratios_of(u, a, slots_count) for u, a in zip(references, answers, strict=True)]
        self.values: dict[str, Floats] = {}
        for name, heads in METRICS.items():
            needed = set(heads) - ({"slots"} if name in WITHOUT_SLOTS and not slots_count else set())
            if not has.issuperset(needed):
                continue
            if name == "domain_f1":
                self.values[name] = PERCENT * _domain_f1(references, answers, weights)
            else:
                sums = (weights @ np.array([row[name] for row in rows], dtype=np.float32)).astype(np.float64)
                self.values[name] = PERCENT * ratio(sums[:, 0], sums[:, 1])
        exact = np.array([row["exact_match"] for row in rows])
        self.exact = np.where(exact[:, 1] > 0, exact[:, 0], math.nan)


def _domain_f1(references: Sequence[Utterance], answers: Sequence[PredictedLabels], weights: Weights) -> Floats:
    names = sorted({u.domain for u in references if u.domain} | {a.domain for a in answers if a.domain})
    index = {name: i for i, name in enumerate(names)}
    labelled = [i for i, u in enumerate(references) if u.domain]
    if not labelled:
        return np.full(len(weights), math.nan)
    expected = np.array([index[references[i].domain or ""] for i in labelled])
    found = np.array([index.get(answers[i].domain or "", -1) for i in labelled])
    return macro_f1(expected, found, len(names), weights[:, labelled])


def interval(resampled: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of resampled values, without those in which nothing annotated was drawn (NaN)."""
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def is_measured(values: Floats | float) -> bool:
    """Whether a metric, or the first of its [1 + resamples] values, is a number."""
    return not np.isnan(np.ravel(values)[0])


def with_interval(values: Floats) -> list[float] | None:
    """The first of [1 + resamples] values, and the ends of the interval of the others; None: not measured."""
    if not is_measured(values):
        return None
    return [round(x, 3) for x in (float(values[0]), *interval(values[1:]))]


def mean_locales(locales: Collection[str]) -> list[str]:
    """The locales of the mean: those of `MEAN_LOCALES` that are present, else all."""
    return [locale for locale in MEAN_LOCALES if locale in locales] or list(locales)


def with_mean(by_locale: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Metrics by locale, and under `MEAN` their mean over those of the `mean_locales` where they are measured."""
    chosen = [by_locale[locale] for locale in mean_locales(by_locale)]
    mean = {}
    for name in chosen[0]:
        found = [scores[name] for scores in chosen]
        found = [values for values in found if is_measured(values)] or found
        mean[name] = sum(found) / len(found)
    return {**{locale: dict(scores) for locale, scores in by_locale.items()}, MEAN: mean}


def annotated_counts(utterances: Iterable[Utterance]) -> dict[str, int]:
    """How many utterances of each locale have annotated slots."""
    counts: Counter[str] = Counter()
    for utterance in utterances:
        counts[utterance.locale] += utterance.slots_annotated
    return dict(counts)


@dataclass(frozen=True)
class Scorecard:
    """Every metric per locale and for their mean, on the set and on resamples of its utterances.

    Where the locales hold the same ids, as in MASSIVE, a resample draws a sentence in all of them or in none.
    """

    sizes: dict[str, int]  # utterances by locale
    annotated: dict[str, int]  # those whose slots are annotated
    values: dict[str, dict[str, Floats]]  # `Scores.values` by locale, and under `MEAN` their mean
    exact: dict[str, Floats]  # `Scores.exact` by locale, the utterances in order of their ids

    @classmethod
    def of(
        cls, references: Sequence[Utterance], answers: Sequence[PredictedLabels], resamples: int = RESAMPLES
    ) -> Scorecard:
        """Score answers, which have the order of the references."""
        scores: dict[str, Scores] = {}
        sizes, annotated = Counter(u.locale for u in references), annotated_counts(references)
        slots_count = any(annotated.values())
        for locale in sizes:
            rows = sorted((i for i, u in enumerate(references) if u.locale == locale), key=lambda i: references[i].id)
            of_locale = [references[i] for i in rows], [answers[i] for i in rows]
            scores[locale] = Scores(*of_locale, resamples, slots_count)
        values = with_mean({locale: found.values for locale, found in scores.items()})
        return cls(dict(sizes), annotated, values, {locale: found.exact for locale, found in scores.items()})

    @property
    def over(self) -> list[str]:
        """The locales of the mean."""
        return mean_locales(self.sizes)

    def mean(self) -> dict[str, float]:
        """The mean of each metric; NaN where it is not measured."""
        return {name: float(values[0]) for name, values in self.values[MEAN].items()}

    def mean_samples(self) -> dict[str, Floats]:
        """The mean of each metric on each resample, [resamples]."""
        return {name: values[1:] for name, values in self.values[MEAN].items()}

    def report(self) -> dict[str, Any]:
        """Metrics as [value, low, high], with 95 % intervals; None where nothing is annotated.

        Returns {"utterances": {locale: count}, "slots_annotated": {locale: count}, "locales": {locale: {metric:
        [...]}}, "mean": {metric: [...]}, "mean_over": [...]}.
        """
        found = {x: {name: with_interval(v) for name, v in values.items()} for x, values in self.values.items()}
        mean = found.pop(MEAN)
        counts = {"utterances": self.sizes, "slots_annotated": self.annotated}
        return {**counts, "locales": found, "mean": mean, "mean_over": self.over}


def score_by_locale(
    references: Sequence[Utterance], answers: Sequence[PredictedLabels]
) -> dict[str, dict[str, float | None]]:
    """Metrics in percent per locale, and under "mean" their mean over the `mean_locales`.

    None where nothing is annotated.
    """
    values = Scorecard.of(references, answers, resamples=0).values
    return {
        locale: {name: float(found[0]) if is_measured(found) else None for name, found in scores.items()}
        for locale, scores in values.items()
    }
