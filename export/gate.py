"""The quality gate: int8 must not lose more than a budget against fp32.

Both graphs answer the same texts, so the drop of a metric has a paired interval (`training.evaluation.scoring`). It
exceeds the budget if the whole 95 % interval lies above it: one changed answer among few texts is no evidence of a
loss, a collapse is. If plain int8 fails, the most sensitive nodes stay in fp32, as few as a bisection finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.data import DEFAULT_MAX_DROP
from export.folder import ExportError
from export.quantization import quantise_int8
from service.student.manifest import Drop, Labels, QualityGate
from training.data.utterances import Utterance
from training.evaluation.scoring import (
    METRICS,
    PERCENT,
    RESAMPLES,
    Floats,
    PredictedLabels,
    Scores,
    is_measured,
    weights_of,
)

log = logging.getLogger(__name__)

GATED = ("domain_accuracy", "intent_accuracy", "slot_f1", "exact_match")
MAX_CHANGED = 10.0  # percent of texts whose answer may change, for a head without labels
MIN_CHANGED = 2  # changed answers; with fewer a drop never exceeds the budget
ROUNDING = 1e-9

Answers = Sequence[PredictedLabels]  # one for each text
AnswersOf = Callable[[Path], Answers]  # of a graph


@dataclass(frozen=True)
class MetricDrop:
    """The loss of a metric in a locale, in points of percent: before minus after, and its 95 % interval.

    `changed` is the number of texts whose answer changed. For a head without labels the metric is the agreement with
    the answers of fp32, which is 100 before.
    """

    locale: str
    metric: str
    before: float
    after: float
    low: float
    high: float
    changed: int

    @property
    def points(self) -> float:
        """Before minus after; negative for a gain."""
        return self.before - self.after

    @property
    def is_agreement(self) -> bool:
        """Whether the answers are compared with those of fp32, for lack of labels."""
        return self.metric.endswith("_agreement")

    def allowed(self, max_drop: float) -> float:
        """The budget in points: more for an agreement, as a changed answer is not always worse."""
        return max(max_drop, MAX_CHANGED) if self.is_agreement else max_drop

    def exceeds(self, max_drop: float) -> bool:
        """Whether the drop is above the budget with confidence."""
        return self.low > self.allowed(max_drop) + ROUNDING and self.changed >= MIN_CHANGED

    def __str__(self) -> str:
        interval = f"95 % interval {self.low:.2f} to {self.high:.2f}"
        return (
            f"{self.points:.2f} points of {self.metric} in {self.locale} "
            f"({self.before:.2f} -> {self.after:.2f}, {interval})"
        )


@dataclass(frozen=True)
class Gate:
    """The outcome of the gate: the nodes that stay in fp32, and the drops and answers of the chosen int8 graph.

    `max_drop` is None where the gate is off.
    """

    max_drop: float | None
    drops: Sequence[MetricDrop]
    answers: Answers
    kept: Sequence[str] = field(default=())

    @property
    def worst(self) -> MetricDrop:
        """The drop that is the furthest beyond the budget, or the closest to it."""
        return worst_of(self.drops, DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop)

    @property
    def passed(self) -> bool:
        """Whether no drop exceeds the budget (`DEFAULT_MAX_DROP` where the gate is off)."""
        return not self.worst.exceeds(DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop)

    def report(self) -> QualityGate:
        """The gate for the manifest."""
        drops: dict[str, dict[str, Drop]] = {}
        for found in self.drops:
            drop, low, high = (round(value, 3) for value in (found.points, found.low, found.high))
            drops.setdefault(found.metric, {})[found.locale] = Drop(drop=drop, low=low, high=high)
        return QualityGate(max_drop=self.max_drop, passed=self.passed, kept_fp32=tuple(self.kept), drops=drops)


def drops_of(utterances: Sequence[Utterance], labels: Labels, before: Answers, after: Answers) -> list[MetricDrop]:
    """The drop of each gated metric in each locale, from the answers of fp32 and int8 to labelled utterances.

    A head of which a locale has no labels that the student knows is judged by the agreement of both answers.
    """
    found: list[MetricDrop] = []
    for locale in dict.fromkeys(u.locale for u in utterances):
        rows = [i for i, u in enumerate(utterances) if u.locale == locale]
        of_locale = [utterances[i] for i in rows]
        one, other = ([answers[i] for i in rows] for answers in (before, after))
        scores = [Scores(of_locale, answers, RESAMPLES).values for answers in (one, other)]
        labelled = _labelled_heads(of_locale, labels)
        pairs = list(zip(one, other, strict=True))
        changed = {head: np.array([getattr(a, head) != getattr(b, head) for a, b in pairs]) for head in labels.heads}
        for metric in GATED:
            heads = METRICS[metric]
            is_known = metric in scores[0] and all(is_measured(found[metric]) for found in scores)
            if is_known and labelled.issuperset(heads):
                count = np.any([changed[head] for head in heads], axis=0).sum()
                found.append(_drop(locale, metric, scores[0][metric], scores[1][metric], count))
        weights = weights_of(len(of_locale), RESAMPLES)
        for head in (head for head in labels.heads if head not in labelled):
            agreement = PERCENT * (1 - (weights @ changed[head]) / len(of_locale))
            whole = np.full_like(agreement, PERCENT)
            found.append(_drop(locale, f"{head}_agreement", whole, agreement, changed[head].sum()))
    return found


def _labelled_heads(utterances: Sequence[Utterance], labels: Labels) -> set[str]:
    """The heads of which there are labels, at least half of them known to the student."""
    found = {
        "domain": [u.domain in labels.domain for u in utterances if u.domain],
        "intent": [u.intent in labels.intent for u in utterances if u.intent],
        "slots": [f"B-{slot.name}" in labels.slots for u in utterances for slot in u.slots],
    }
    return {head for head in labels.heads if found[head] and 2 * sum(found[head]) >= len(found[head])}


def _drop(locale: str, metric: str, before: Floats, after: Floats, changed: np.int64) -> MetricDrop:
    """From values [1 + resamples], which are NaN where a resample has no label."""
    low, high = np.nanpercentile((before - after)[1:], [2.5, 97.5])
    return MetricDrop(locale, metric, float(before[0]), float(after[0]), float(low), float(high), int(changed))


def worst_of(drops: Sequence[MetricDrop], max_drop: float) -> MetricDrop:
    """The drop that is the furthest beyond its budget, or the closest to it."""
    return max(drops, key=lambda x: (x.exceeds(max_drop), x.low - x.allowed(max_drop), x.points))


def quantise_within(
    max_drop: float,
    source: Path,
    target: Path,
    drops: Callable[[Answers], Sequence[MetricDrop]],
    answers_of: AnswersOf,
    order: Callable[[], Sequence[str]],
    any_cpu: bool = True,
) -> Gate:
    """Write an int8 graph of which no drop exceeds the budget.

    Args:
        max_drop: In points of percent.
        source: The fp32 graph.
        target: The path of the int8 graph.
        drops: The drops of int8 answers against fp32.
        answers_of: Answers the evaluated data with a graph.
        order: Returns the nodes in the order in which they are kept in fp32; called if plain int8 fails.
        any_cpu: As for `quantise_int8`.

    Raises:
        ExportError: no graph passes; the message names metric and locale.
    """
    nodes: list[str] = []
    trials: dict[int, Gate] = {}  # by number of nodes in fp32

    def passes(count: int) -> bool:
        quantise_int8(source, target, keep=nodes[:count], any_cpu=any_cpu)
        answers = answers_of(target)
        trials[count] = Gate(max_drop, drops(answers), answers, nodes[:count])
        log.info("%d nodes in fp32: int8 loses %s", count, trials[count].worst)
        return trials[count].passed

    if passes(0):
        return trials[0]
    log.info("int8 fails the gate of %g points; measuring which nodes are the most sensitive", max_drop)
    nodes += order()
    failed, kept = 0, 1
    while not passes(kept):
        if kept >= len(nodes):
            best = min((gate.worst for gate in trials.values()), key=lambda drop: drop.low)
            raise ExportError(
                f"int8 loses {best}; allowed: {best.allowed(max_drop):g}. {len(trials)} graphs were tried, with up to "
                f"{kept} nodes in fp32. Use --precision fp32, or allow more with --max-drop POINTS, or any loss with "
                "--max-drop none"
            )
        failed, kept = kept, min(2 * kept, len(nodes))
    while kept - failed > 1:
        middle = (failed + kept) // 2
        failed, kept = (failed, middle) if passes(middle) else (middle, kept)
    quantise_int8(source, target, keep=nodes[:kept], any_cpu=any_cpu)  # the last trial may have failed
    return trials[kept]


def warn(gate: Gate) -> None:
    """Log warnings of a loss that a gate which is off lets pass, and of losses that could not be measured."""
    if not gate.passed:
        log.warning("--max-drop none: the quality gate is off, and int8 loses %s", gate.worst)
    for drop in (drop for drop in gate.drops if drop.is_agreement):
        log.warning(
            "%s: the data has no labels of the student for %s, so a loss of int8 is not measured; it gives the same "
            "labels as fp32 for %.1f %% of the texts",
            drop.locale,
            drop.metric.removesuffix("_agreement"),
            drop.after,
        )
