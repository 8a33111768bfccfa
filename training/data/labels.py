"""Label sets and BIO tags of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.student.manifest import OUTSIDE, Labels
from training.data.utterances import Slot, Utterance

HEADS = ("domain", "intent", "slots")


def labels_of(utterances: Iterable[Utterance], heads: Sequence[str] = HEADS) -> Labels:
    """The sorted labels that occur in the utterances, for the chosen heads; slots as BIO tags with "O" first.

    Where there are other labels, but no slot, the head for slots is left out: it could only learn to find none.
    """
    read = list(utterances)
    slots = sorted({slot.name for utterance in read for slot in utterance.slots})
    found = {
        "domain": sorted({u.domain for u in read if u.domain}),
        "intent": sorted({u.intent for u in read if u.intent}),
        "slots": [OUTSIDE, *(f"{prefix}-{name}" for name in slots for prefix in "BI")],
    }
    if not slots and any(found[head] for head in heads if head != "slots"):
        found["slots"] = []
    return Labels(**{head: tuple(found[head]) for head in heads})


def tags_of(words: Sequence[tuple[int, int]], slots: Sequence[Slot]) -> list[str]:
    """One BIO tag for each word (start, end): a word that shares a character with a slot belongs to it."""
    tags = [OUTSIDE] * len(words)
    for slot in slots:
        prefix = "B"
        for i, (start, end) in enumerate(words):
            if start < slot.end and end > slot.start and tags[i] == OUTSIDE:
                tags[i] = f"{prefix}-{slot.name}"
                prefix = "I"
    return tags
