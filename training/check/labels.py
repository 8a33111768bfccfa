"""Labels by themselves: how many utterances have each, spellings of one label, rare and unseen ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from training.check.findings import Finding
from training.data.utterances import PARTITIONS, Utterance

MIN_UTTERANCES = 10  # of an intent in the train partition of a locale
SEPARATORS = re.compile(r"[\W_]+")


def counts(utterances: Sequence[Utterance]) -> dict[str, dict[str, dict[str, int]]]:
    """Utterances by locale, domain, intent and slot, each by partition: {"intent": {"alarm_set": {"train": 12}}}.

    Slots count once for each annotated span.
    """
    found: dict[str, dict[str, Counter[str]]] = {"locale": {}, "domain": {}, "intent": {}, "slot": {}}
    for utterance in utterances:
        for head, name in [("locale", utterance.locale), *_named(utterance)]:
            found[head].setdefault(name, Counter())[utterance.partition] += 1
    return {
        head: {name: {p: names[name][p] for p in PARTITIONS if names[name][p]} for name in sorted(names)}
        for head, names in found.items()
    }


def variants(utterances: Sequence[Utterance]) -> list[Finding]:
    """Spellings of a domain, intent or slot that differ in case, space or separators only."""
    spellings: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row, utterance in enumerate(utterances):
        for head, name in _named(utterance):
            key = SEPARATORS.sub("", name).casefold()
            spellings.setdefault((head, key), {}).setdefault(name, []).append(row)
    found = []
    for (head, _), names in spellings.items():
        if len(names) > 1:
            ordered = sorted(names, key=lambda name: -len(names[name]))
            shown = ", ".join(f"{name!r} ({len(names[name])})" for name in ordered)
            rare = tuple(dict.fromkeys(row for name in ordered[1:] for row in names[name]))
            found.append(Finding(f"{head}: {shown}", rare, {"head": head, "spellings": ordered}))
    return found


def unseen(utterances: Sequence[Utterance]) -> list[Finding]:
    """Labels of dev or test that never occur in train; none if there is no train."""
    rows: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row, utterance in enumerate(utterances):
        for head, name in _named(utterance):
            rows.setdefault((head, name), {}).setdefault(utterance.partition, []).append(row)
    if not any(utterance.partition == "train" for utterance in utterances):
        return []
    found = []
    for (head, name), partitions in sorted(rows.items()):
        if "train" not in partitions:
            shown = ", ".join(f"{len(held)} in {partition}" for partition, held in partitions.items())
            held = tuple(row for held in partitions.values() for row in held)
            found.append(Finding(f"{head} {name!r}: {shown}, none in train", held, {"head": head, "label": name}))
    return found


def rare_intents(utterances: Sequence[Utterance], minimum: int = MIN_UTTERANCES) -> list[Finding]:
    """Intents with fewer than `minimum` training utterances in a locale that has the intent; the rarest first."""
    rows: dict[str, dict[str, list[int]]] = {}
    for row, utterance in enumerate(utterances):
        if utterance.intent is not None and utterance.partition == "train":
            rows.setdefault(utterance.intent, {}).setdefault(utterance.locale, []).append(row)
    found = []
    for intent, locales in rows.items():
        few: dict[str, Any] = {name: len(held) for name, held in sorted(locales.items()) if len(held) < minimum}
        if few:
            shown = ", ".join(f"{count} in {locale}" for locale, count in few.items())
            concerned = tuple(row for locale in few for row in locales[locale])
            found.append(Finding(f"{intent}: {shown}", concerned, {"intent": intent, "train": few}))
    return sorted(found, key=lambda one: (min(one.details["train"].values()), one.message))


def _named(utterance: Utterance) -> Iterator[tuple[str, str]]:
    if utterance.domain is not None:
        yield "domain", utterance.domain
    if utterance.intent is not None:
        yield "intent", utterance.intent
    yield from (("slot", slot.name) for slot in utterance.slots)
