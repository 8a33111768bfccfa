"""Two students on the same utterances: which differences are more than chance, and which answers changed.

Whether each utterance is answered right is compared by McNemar's exact test (McNemar 1947), locale by locale: a
sentence and its translations go wrong together, so one test over all of them would be too sure. Differences of any
metric have intervals from a bootstrap that draws the same utterances for both students and in all locales
(`training.evaluation.scoring.Scorecard`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from scipy.stats import binomtest  # type: ignore[import-untyped,unused-ignore]

from training.data.utterances import Utterance
from training.evaluation.scoring import MEAN, Answer, Scorecard, with_interval

Json = dict[str, Any]


def compare(candidate: Scorecard, baseline: Scorecard) -> Json:
    """What changes from a baseline to a candidate, scored on the same utterances.

    Returns {"locales": {locale: {metric: [difference, low, high]}}, "mean": {metric: [...]}, "exact_match": {locale:
    {"gained", "lost", "p_value"}}}: differences in points with 95 % intervals, of the metrics that both have; and how
    many utterances only the candidate, and only the baseline, answers right.
    """
    found: Json = {"locales": {}, "exact_match": {}}
    for name, now in candidate.values.items():
        before = baseline.values[name]
        found["locales"][name] = {m: with_interval(values - before[m]) for m, values in now.items() if m in before}
    found["mean"] = found["locales"].pop(MEAN)
    for locale, exact in candidate.exact.items():
        gained = int(((exact == 1) & (baseline.exact[locale] == 0)).sum())
        lost = int(((exact == 0) & (baseline.exact[locale] == 1)).sum())
        if "exact_match" in found["locales"][locale]:
            found["exact_match"][locale] = {"gained": gained, "lost": lost, "p_value": mcnemar(gained, lost)}
    return found


def mcnemar(gained: int, lost: int) -> float:
    """P value of McNemar's exact test, two-sided: how likely a split as uneven or more is by chance."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def changes(utterances: Sequence[Utterance], answers: Sequence[Answer], before: Sequence[Answer]) -> Iterator[Json]:
    """The utterances that are answered otherwise than before: text, what is right, and both answers."""
    for utterance, now, then in zip(utterances, answers, before, strict=True):
        if now != then:
            expected = Answer(utterance.domain, utterance.intent, utterance.slots)
            told = {"expected": expected, "before": then, "now": now}
            facts = {name: getattr(utterance, name) for name in ("id", "locale", "text")}
            yield {**facts, **{name: _told(utterance, answer) for name, answer in told.items()}}


def _told(utterance: Utterance, answer: Answer) -> Json:
    slots = [f"{slot.name}: {utterance.value(slot)}" for slot in answer.slots or ()]
    return {"domain": answer.domain, "intent": answer.intent, "slots": None if answer.slots is None else slots}
