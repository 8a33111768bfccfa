"""Two students on the same utterances: which differences are significant, and which answers changed.

McNemar's exact test (McNemar 1947) compares which utterances are answered right, locale by locale: errors on a sentence
and on its translations are correlated, so that p values over all locales would be too small. Differences of any metric
have intervals from a bootstrap that draws the same utterances for both students and in all locales
(`training.evaluation.scoring.Scorecard`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from scipy.stats import binomtest  # type: ignore[import-untyped,unused-ignore]

from training.data.utterances import Utterance
from training.evaluation.scoring import MEAN, PredictedLabels, Scorecard, with_interval

Json = dict[str, Any]


def compare(candidate: Scorecard, baseline: Scorecard) -> Json:
    """What changes from a baseline to a candidate, scored on the same utterances.

    Returns {"locales": {locale: {metric: [difference, low, high]}}, "mean": {metric: [...]}, "exact_match": {locale:
    {"gained", "lost", "p_value"}}}: differences in points with 95 % intervals, of the metrics that both have, None
    where nothing is annotated; and how many utterances only the candidate, and only the baseline, answers right.
    """
    result: Json = {"locales": {}, "exact_match": {}}
    for name, now in candidate.values.items():
        before = baseline.values[name]
        result["locales"][name] = {m: with_interval(values - before[m]) for m, values in now.items() if m in before}
    result["mean"] = result["locales"].pop(MEAN)
    for locale, exact in candidate.exact.items():
        gained = int(((exact == 1) & (baseline.exact[locale] == 0)).sum())
        lost = int(((exact == 0) & (baseline.exact[locale] == 1)).sum())
        if result["locales"][locale].get("exact_match"):
            result["exact_match"][locale] = {"gained": gained, "lost": lost, "p_value": mcnemar(gained, lost)}
    return result


def mcnemar(gained: int, lost: int) -> float:
    """P value of McNemar's exact test, two-sided: how likely a split as uneven or more is by chance."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def changes(
    utterances: Sequence[Utterance], answers: Sequence[PredictedLabels], before: Sequence[PredictedLabels]
) -> Iterator[Json]:
    """The utterances whose answer differs from the one before: text, expected answer, and both answers."""
    for utterance, now, then in zip(utterances, answers, before, strict=True):
        if now != then:
            expected = PredictedLabels(utterance.domain, utterance.intent, utterance.slots)
            compared = {"expected": expected, "before": then, "now": now}
            facts = {name: getattr(utterance, name) for name in ("id", "locale", "text")}
            yield {**facts, **{name: _json_of(utterance, answer) for name, answer in compared.items()}}


def _json_of(utterance: Utterance, answer: PredictedLabels) -> Json:
    slots = [f"{slot.name}: {utterance.value(slot)}" for slot in answer.slots or ()]
    return {"domain": answer.domain, "intent": answer.intent, "slots": None if answer.slots is None else slots}
