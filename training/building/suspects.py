"""The rows of the data to look at first, from the mistakes of a student.

A text of dev that gets another intent with high confidence is labelled wrongly, or training texts much like it are, or
the two intents overlap. So each such text is listed with the training texts of the answered intent that are most like
it, by the cosine of TF-IDF (`training.check.classifier`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.building.kept import Kept
from training.building.served import Answer
from training.check.classifier import features_of

MAX_ROWS = 30
NEIGHBOURS = 2  # training texts beside each


def suspects(data: Kept, rows: Sequence[int], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The rows of dev whose intent is answered wrongly with the highest confidence, at most `MAX_ROWS`.

    `similar` are training texts with the answered intent and their similarity, 0 to 1, the most similar first.
    """
    wrong = []
    for row, answer in zip(rows, answers, strict=True):
        expected, answered = data.utterances[row].intent, answer.labels.intent
        if expected and answered and expected != answered:
            wrong.append((-(answer.confidence or 0.0), row, answered))
    wrong = sorted(wrong)[:MAX_ROWS]
    if not wrong:
        return []
    train = [i for i, u in enumerate(data.utterances) if u.partition == "train"]
    texts = [data.utterances[i].text for i in (*train, *(row for _, row, _ in wrong))]
    features = features_of(texts)
    known = {intent: [n for n, i in enumerate(train) if data.utterances[i].intent == intent] for _, _, intent in wrong}
    found: list[dict[str, Any]] = []
    for place, (negative, row, intent) in enumerate(wrong):
        utterance, candidates = data.utterances[row], known[intent]
        similarities = (features[candidates] @ features[len(train) + place].T).toarray()[:, 0]
        nearest = np.argsort(-similarities, kind="stable")[:NEIGHBOURS]
        similar = [
            {
                "place": data.places[train[candidates[n]]],
                "text": data.utterances[train[candidates[n]]].text,
                "similarity": round(float(similarities[n]), 2),
            }
            for n in nearest
            if similarities[n] > 0
        ]
        facts = {"text": utterance.text, "locale": utterance.locale, "intent": utterance.intent}
        said = {"answered_intent": intent, "confidence": round(-negative, 3)}
        found.append({"place": data.places[row], **facts, **said, "similar": similar})
    return found
