"""Slots whose values overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from training.check.findings import Finding
from training.check.texts import key_of, language_of
from training.data.utterances import Utterance

MIN_SHARED = 3  # distinct values that two slots have in common
MIN_SHARE = 0.1  # of the distinct values of the slot that has fewer
SHOWN_VALUES = 5


def overlaps(utterances: Sequence[Utterance]) -> list[Finding]:
    """Pairs of slots that share values of a language, the largest share of the smaller slot first.

    Values are compared without case, space and punctuation.
    """
    rows: dict[tuple[str, str], dict[str, list[int]]] = {}  # by language and value, then by slot
    written: dict[tuple[str, str], str] = {}
    distinct: Counter[str] = Counter()
    for row, utterance in enumerate(utterances):
        for slot in utterance.slots:
            value = (language_of(utterance.locale), key_of(utterance.value(slot)))
            written.setdefault(value, utterance.value(slot))
            names = rows.setdefault(value, {})
            distinct[slot.name] += slot.name not in names
            names.setdefault(slot.name, []).append(row)
    shared: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for value, names in rows.items():
        for pair in combinations(sorted(names), 2):
            shared.setdefault(pair, []).append(value)
    found = []
    for (a, b), values in shared.items():
        share = len(values) / min(distinct[a], distinct[b])
        if len(values) < MIN_SHARED or share < MIN_SHARE:
            continue
        values.sort(key=lambda value: -min(len(rows[value][a]), len(rows[value][b])))
        examples = [
            {"value": written[value], a: len(rows[value][a]), b: len(rows[value][b])} for value in values[:SHOWN_VALUES]
        ]
        listed = ", ".join(f"{e['value']!r} ({a} {e[a]}, {b} {e[b]})" for e in examples[:3])
        smaller = min((a, b), key=lambda name: distinct[name])
        message = f"{a} / {b}: {len(values)} values, {share:.0%} of those of {smaller}: {listed}"
        pairs = tuple((rows[value][a][0], rows[value][b][0]) for value in values[:SHOWN_VALUES])
        details = {"slots": [a, b], "shared": len(values), "share": round(share, 4), "values": examples}
        found.append(Finding(message, tuple(dict.fromkeys(row for pair in pairs for row in pair)), details, pairs))
    return sorted(found, key=lambda one: (-one.details["share"], one.message))
