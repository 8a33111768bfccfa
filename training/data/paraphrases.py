"""Paraphrases of training utterances from a file, such as back-translations: a hook for augmentation.

A line of the file is ``text<TAB>paraphrase``. Labels are those of the utterance with that text; each slot is found by
its value, so a paraphrase that lacks a value, or has one twice, can't be used.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from training.data.utterances import DatasetError, Slot, Utterance

log = logging.getLogger(__name__)


class Paraphrases:
    """The usable paraphrases of utterances."""

    def __init__(self, file: Path, utterances: Sequence[Utterance]) -> None:
        """Read a file. Raises DatasetError: it can't be read, a line is wrong, or none of it can be used."""
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{file}: cannot be read: {error}") from error
        by_text: dict[str, list[str]] = defaultdict(list)
        for number, line in enumerate(lines, start=1):
            parts = [part.strip() for part in line.split("\t")]
            if len(parts) != 2 or not all(parts):
                raise DatasetError(f"{file}:{number}: {line!r}; allowed: a text, a tab and its paraphrase")
            by_text[parts[0]].append(parts[1])
        self._found: dict[Utterance, list[Utterance]] = {}
        unusable = 0
        for utterance in dict.fromkeys(utterances):
            variants = [paraphrased(utterance, text) for text in by_text.get(utterance.text.strip(), ())]
            if usable := [variant for variant in variants if variant is not None]:
                self._found[utterance] = usable
            unusable += len(variants) - len(usable)
        count = sum(map(len, self._found.values()))
        log.info("%s: %d paraphrases can be used, %d lack a slot's value", file.name, count, unusable)
        if not count:
            raise DatasetError(f"{file}: holds no paraphrase of a training utterance that has the values of its slots")

    def __call__(self, utterances: Sequence[Utterance], _strength: float, rng: random.Random) -> list[Utterance]:
        """One of the paraphrases of each utterance; the utterance itself where there is none."""
        return [rng.choice(self._found.get(utterance, [utterance])) for utterance in utterances]


def paraphrased(utterance: Utterance, text: str) -> Utterance | None:
    """The text with the utterance's labels and slots; None where a slot's value does not occur exactly once.

    Values are compared without regard to case.
    """
    folded = text.casefold()
    if len(folded) != len(text):  # offsets would not be those of the text
        return None
    slots = []
    for slot in utterance.slots:
        value = utterance.value(slot).casefold().strip()
        if folded.count(value) != 1:
            return None
        start = folded.index(value)
        slots.append(Slot(slot.name, start, start + len(value)))
    slots.sort(key=lambda slot: slot.start)
    if any(before.end > after.start for before, after in pairwise(slots)):
        return None
    return replace(utterance, text=text, slots=tuple(slots))
