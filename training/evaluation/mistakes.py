"""Mistakes of a student: weak intents and slots, what is taken for what, and the texts that are answered wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import PredictedLabels

Json = dict[str, Any]

CONFUSIONS = 3  # of an intent that are listed


def mistakes_of(references: Sequence[Utterance], answers: Sequence[PredictedLabels]) -> Json:
    """Weak labels and wrong texts, of answers in the order of the references. Shares are in percent.

    `intents` and `slots` have `count`, `precision`, `recall` and `f1` of each label that occurs, the weakest first.
    A slot is right if name and value are. `taken_for` are the intents that are answered most often instead. `texts` are
    the utterances with a wrong intent or slot, `wrong` the heads that are. `confusions` are all pairs of an intent and
    another one that is answered instead, the most frequent first. Heads without labels or answers are left out.
    """
    pairs = list(zip(references, answers, strict=True))
    intents = [(u.intent, a.intent) for u, a in pairs]
    texts = []
    for utterance, answer in pairs:
        if wrong := wrong_heads(utterance, answer):
            texts.append(
                {
                    "id": utterance.id,
                    "locale": utterance.locale,
                    "text": utterance.text,
                    "intent": utterance.intent,
                    "answered_intent": answer.intent,
                    "slots": [[slot.name, utterance.value(slot)] for slot in utterance.slots],
                    "answered_slots": [[slot.name, utterance.value(slot)] for slot in answer.slots or ()],
                    "wrong": wrong,
                }
            )
    slots: list[tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]] = [
        (_slots(u, u.slots), _slots(u, a.slots)) for u, a in pairs if a.slots is not None and u.slots_annotated
    ]
    confused = Counter((a, b) for a, b in intents if a and b and a != b)
    ordered = sorted(confused.items(), key=lambda item: (-item[1], item[0]))
    return {
        "utterances": len(pairs),
        "wrong": len(texts),
        "intents": _weak_intents([(a, b) for a, b in intents if a and b]),
        "slots": _weak_slots(slots),
        "confusions": [{"intent": a, "answered": b, "count": count} for (a, b), count in ordered],
        "texts": texts,
    }


def wrong_heads(utterance: Utterance, answer: PredictedLabels) -> list[str]:
    """Which of intent and slots are wrong, each where it is labelled and answered; slots by names and values."""
    wrong = ["intent"] if utterance.intent and answer.intent and utterance.intent != answer.intent else []
    if answer.slots is not None and utterance.slots_annotated:
        wrong += ["slots"] if _slots(utterance, answer.slots) != _slots(utterance, utterance.slots) else []
    return wrong


def _slots(utterance: Utterance, slots: Sequence[Slot]) -> Counter[tuple[str, str]]:
    return Counter((slot.name, utterance.value(slot)) for slot in slots)


def _weak_intents(pairs: Sequence[tuple[str, str]]) -> list[Json]:
    expected, found = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    right, confused = Counter(a for a, b in pairs if a == b), Counter((a, b) for a, b in pairs if a != b)
    rows = []
    for intent in expected:
        others = sorted(((count, b) for (a, b), count in confused.items() if a == intent), key=lambda x: (-x[0], x[1]))
        taken_for = {other: count for count, other in others[:CONFUSIONS]}
        rows.append(
            {"intent": intent, **_scores(right[intent], found[intent], expected[intent]), "taken_for": taken_for}
        )
    return sorted(rows, key=lambda row: (row["f1"], row["intent"]))


def _weak_slots(pairs: Sequence[tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]]) -> list[Json]:
    expected, found, right = Counter[str](), Counter[str](), Counter[str]()
    for reference, answer in pairs:
        for counts, slots in ((expected, reference), (found, answer), (right, reference & answer)):
            counts.update(name for name, _ in slots.elements())
    rows = [{"slot": name, **_scores(right[name], found[name], expected[name])} for name in expected]
    return sorted(rows, key=lambda row: (row["f1"], row["slot"]))


def _scores(right: int, found: int, expected: int) -> Json:
    precision, recall = (round(100 * right / count, 1) if count else 0.0 for count in (found, expected))
    f1 = round(200 * right / (found + expected), 1) if found + expected else 0.0
    return {"count": expected, "precision": precision, "recall": recall, "f1": f1}
