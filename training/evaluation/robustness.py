"""The typed suite: what each way of typing costs a model, against the same utterances as they are.

A row holds the utterances that one rewriting of `training.data.typed` changes, so unchanged ones don't dilute it, and
the paired drop with a 95 % interval (`training.evaluation.paired`).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from training.data.typed import TYPED, typed_pairs
from training.data.utterances import Utterance
from training.evaluation.paired import compare
from training.evaluation.scoring import MEAN, PredictedLabels, Scorecard, is_measured

MAX_UTTERANCES = 500  # of a locale and row: the same sentences in all rows as far as possible
MEASURES = ("exact_match", "slot_f1", "intent_accuracy", "domain_accuracy")  # the first one that the heads allow


class TypedSuite:
    """The texts of a suite, and its report once a model has answered them.

    `texts` are plain and typed utterances; answers are needed for all of them, in their order.
    """

    def __init__(self, utterances: Sequence[Utterance], seed: int = 0, limit: int = MAX_UTTERANCES) -> None:
        """Rewrite at most `limit` utterances of each locale in each way; deterministic for a seed.

        Where only some utterances have both domain and intent, the others are left out.
        """
        most = max(_labels(utterance) for utterance in utterances)
        utterances = [utterance for utterance in utterances if _labels(utterance) == most]
        found = {name: _limited(typed_pairs(name, utterances, seed), limit) for name in TYPED}
        used = {i: place for place, i in enumerate(sorted({i for pairs in found.values() for i, _ in pairs}))}
        self.texts = [utterances[i] for i in used]
        self._rows: dict[str, list[tuple[int, int]]] = {}  # places of plain and typed utterances by name
        for name, pairs in found.items():
            if pairs:
                self._rows[name] = [(used[i], len(self.texts) + place) for place, (i, _) in enumerate(pairs)]
                self.texts += [typed for _, typed in pairs]

    def report(self, answers: Sequence[PredictedLabels]) -> dict[str, Any]:
        """The rows by name, the largest drop first.

        Returns {"metric", "typed": {name: {"utterances": {locale: count}, "plain", "typed", "drop", "locales"}}}: the
        metric in percent on the plain and on the typed text, and the drop as [points, low, high], as the mean of the
        locales and by locale.
        """
        rows: dict[str, dict[str, Any]] = {}
        metric = ""
        for name, places in self._rows.items():
            plain, typed = (
                Scorecard.of([self.texts[i] for i in side], [answers[i] for i in side])
                for side in zip(*places, strict=True)
            )
            means = plain.values[MEAN], typed.values[MEAN]
            metric = next((name for name in MEASURES if all(name in m and is_measured(m[name]) for m in means)), "")
            if not metric:  # neither labels nor slots
                continue
            drops = compare(plain, typed)
            rows[name] = {
                "utterances": dict(Counter(self.texts[i].locale for i, _ in places)),
                "plain": round(plain.mean()[metric], 2),
                "typed": round(typed.mean()[metric], 2),
                "drop": drops["mean"][metric],
                "locales": {locale: found[metric] for locale, found in drops["locales"].items()},
            }
        return {"metric": metric, "typed": dict(sorted(rows.items(), key=lambda row: -row[1]["drop"][0]))}


def render_suite(rows: dict[str, dict[str, Any]], metric: str) -> str:
    """The rows as a table."""
    lines = [f"{metric.replace('_', ' '):18}{'utterances':>12}{'plain':>9}{'typed':>9}{'drop':>8}{'95 % interval':>18}"]
    for name, row in rows.items():
        drop, low, high = row["drop"]
        figures = f"{sum(row['utterances'].values()):12}{row['plain']:9.1f}{row['typed']:9.1f}{drop:8.1f}"
        lines.append(f"{name:18}{figures}{f'{low:.1f} to {high:.1f}':>18}")
    return "\n".join(lines)


def _labels(utterance: Utterance) -> int:
    return bool(utterance.domain) + bool(utterance.intent)


def _limited(pairs: Sequence[tuple[int, Utterance]], limit: int) -> list[tuple[int, Utterance]]:
    """At most `limit` pairs of each locale, chosen by id, so that locales and rows share sentences; in order."""
    kept: list[tuple[int, Utterance]] = []
    counts: Counter[str] = Counter()
    for i, typed in sorted(pairs, key=lambda pair: (zlib.crc32(pair[1].id.encode()), pair[0])):
        counts[typed.locale] += 1
        if counts[typed.locale] <= limit:
            kept.append((i, typed))
    return sorted(kept, key=lambda pair: pair[0])
