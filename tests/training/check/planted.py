"""Faults planted into correct data with a seed: wrong labels, copies across partitions, contradictions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from training.data.utterances import Utterance


class Planted(NamedTuple):
    """Utterances with faults, and the ids of those with a wrong label, of copies and of contradicting rows."""

    utterances: list[Utterance]
    wrong: set[str]
    copies: set[str]
    contradictions: set[str]


def plant(utterances: Sequence[Utterance], seed: int, wrong: float, copied: float, contradictions: int) -> Planted:
    """Give a share of the rows a wrong intent, copy a share into another partition, and add contradicting rows.

    Copies and contradicting rows differ from their originals in case, space or punctuation. Wrong labels, copies and
    contradictions are of different rows. Ids have to be unique.
    """
    rng = random.Random(seed)
    intents = sorted({u.intent for u in utterances if u.intent})
    counts = round(wrong * len(utterances)), round(copied * len(utterances)), contradictions
    chosen = rng.sample(range(len(utterances)), sum(counts))
    mislabelled, sources = set(chosen[: counts[0]]), chosen[counts[0] :]

    def other(utterance: Utterance) -> str:
        return rng.choice([intent for intent in intents if intent != utterance.intent])

    found = [replace(u, intent=other(u)) if i in mislabelled else u for i, u in enumerate(utterances)]
    copies = [
        replace(_retyped(u, rng), id=f"copy-{u.id}", partition="test" if u.partition == "train" else "train")
        for u in (utterances[i] for i in sources[: counts[1]])
    ]
    contradicting = [
        replace(_retyped(u, rng), id=f"contradiction-{u.id}", intent=other(u))
        for u in (utterances[i] for i in sources[counts[1] :])
    ]
    rows = [*found, *copies, *contradicting]
    rng.shuffle(rows)
    wrong_ids = {utterances[i].id for i in mislabelled} | {u.id for u in contradicting}
    return Planted(rows, wrong_ids, {u.id for u in copies}, {u.id for u in contradicting})


def _retyped(utterance: Utterance, rng: random.Random) -> Utterance:
    """The text in another case, or with punctuation at the end; slots keep their offsets."""
    text = utterance.text
    upper = text.upper() if len(text.upper()) == len(text) else text
    return replace(utterance, text=rng.choice([text, f"{text} !", f"{text}?", upper, f"{text}  "]))
