"""What loading tells about a whole data set: contradictions, texts of dev in train, missing heads, labels not in train.

`distilled-nlu` commands log these in a line each.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from training.data.formats.base import Notes
from training.data.offsets import broken_slots, report_broken_slots
from training.data.utterances import PARTITIONS, Partition, Utterance


def note_findings(source: str, places: Sequence[str], utterances: Sequence[Utterance], notes: Notes) -> None:
    """Add what is probably wrong with the utterances, which stand at the places."""
    _duplicates(source, places, utterances, notes)
    _heads(source, utterances, notes)
    broken = broken_slots(places, utterances)
    report_broken_slots(broken, sum(len(u.slots) for u in utterances), notes)
    _unseen_labels(source, utterances, notes)


def _duplicates(source: str, places: Sequence[str], utterances: Sequence[Utterance], notes: Notes) -> None:
    first: dict[tuple[str, str], int] = {}
    training: set[tuple[str, str]] = {(u.locale, u.text) for u in utterances if u.partition == "train"}
    contradictions: list[tuple[int, int]] = []
    leaks: list[int] = []
    for i, utterance in enumerate(utterances):
        key = (utterance.locale, utterance.text)
        other = first.setdefault(key, i)
        if other != i and _labels(utterances[other]) != _labels(utterance):
            contradictions.append((other, i))
        if utterance.partition != "train" and key in training:
            leaks.append(i)
    if contradictions:
        a, b = contradictions[0]
        said = f"{len(contradictions)} rows repeat a text with other labels, the first: {places[b]} and {places[a]}"
        notes.warn(source, said)
    if leaks:
        said = f"{len(leaks)} dev and test utterances stand in train too, the first: {places[leaks[0]]}"
        notes.warn(source, said)


def _labels(utterance: Utterance) -> Hashable:
    return utterance.domain, utterance.intent, utterance.slots


def _heads(source: str, utterances: Sequence[Utterance], notes: Notes) -> None:
    for head in ("domain", "intent"):
        labels = {getattr(u, head) for u in utterances} - {None}
        if not labels:
            article = "an" if head == "intent" else "a"
            notes.info(source, f"no row has {article} {head}: a student of this data has no {head} head")
        elif all(label.isdecimal() for label in labels):
            notes.warn(source, f"{head}: all {len(labels)} labels are numbers: their names are probably lost")
    if not any(u.slots for u in utterances):
        why = "annotated as having no" if any(u.slots_annotated for u in utterances) else "not annotated with"
        notes.info(source, f"the rows are {why} slots: a student of this data has no slot head")


def _unseen_labels(source: str, utterances: Sequence[Utterance], notes: Notes) -> None:
    found: dict[Partition, set[tuple[str, str]]] = {partition: set() for partition in PARTITIONS}
    for u in utterances:
        named = (("domain", u.domain), ("intent", u.intent), *(("slot", s.name) for s in u.slots))
        found[u.partition] |= {(kind, name) for kind, name in named if name is not None}
    for partition in PARTITIONS[1:] if found["train"] else ():
        for kind, name in sorted(found[partition] - found["train"]):
            unseen = f"{kind} {name!r} occurs in {partition} but never in train: no student can learn it"
            notes.warn(source, unseen)
