"""Data augmentation: variants of training utterances with the same labels and adjusted slots.

Typed variants (`training.data.typed`, and capitals and punctuation) are what users write: text such as MASSIVE is
lower-case spoken form ("weck mich um neun uhr"), but users type "Weck mich um 9 Uhr!". Other variants have other slot
values.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from training.data.rewriting import edit, rewrite
from training.data.typed import TRAINING, TYPED
from training.data.utterances import Slot, Utterance

# Names of `training.data.typed`, one of which is drawn with a probability
VARIANTS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("times", "money, degrees"), 0.5),
    (("digits",), 0.5),
    (("no accents", "ae oe ue ss"), 0.25),
    (("no apostrophe", "’"), 0.2),
    (("quotes",), 0.15),
    (("politeness", "wake word"), 0.3),
    (("comma",), 0.05),
)
AT_THE_END = ("emoji", "final …")

_QUESTION = re.compile(
    r"(was|wer|wie|wo|wann|welch\w*|ist|gibt|hat|habe|kannst|qu\S*|est|comment|où|combien|c'est|chi|che|come|dove|quando|"
    r"quant\w*|cosa|qual\w*|cuál\w*|cómo|dónde|cuándo|cuánt\w*|hay|what\S*|who\S*|how|where|when|which|is|are|do|does|can)\b"
)


def as_typed(utterance: Utterance, rng: random.Random) -> Utterance:
    """A capitalised and punctuated copy: "Weck mich am Freitag um neun Uhr auf!".

    The first word, and each other word with probability 0.3, get a capital; the end gets ".", "!" or "?" (Spanish
    questions and exclamations both marks); with probability 0.15 a comma follows an inner word.
    """
    question = bool(_QUESTION.match(utterance.text))
    mark = "?" if question else rng.choice(".!")
    opening = {"?": "¿", "!": "¡"}.get(mark, "") if utterance.locale.startswith("es") and rng.random() < 0.5 else ""
    comma = rng.random() < 0.15

    def change(index: int, word: str, last: bool) -> tuple[str, str, str]:
        nonlocal comma
        if index == 0 or rng.random() < 0.3:
            word = word[0].upper() + word[1:]
        if last:
            return opening if index == 0 else "", word, "" if word.endswith(".") and mark == "." else mark
        if comma and index > 0 and rng.random() < 0.4:
            comma = False
            return "", word, ","
        return opening if index == 0 else "", word, ""

    return rewrite(utterance, change)


def augment(utterance: Utterance, rng: random.Random, share: float = 0.5) -> Utterance:
    """A training variant: unchanged with probability 1 - `share`, else a mix of rewritings.

    An utterance that no drawn rewriting changes is returned itself.
    """
    if rng.random() >= share:
        return utterance
    for names, probability in VARIANTS:
        if rng.random() < probability:
            utterance = TYPED[rng.choice(names)](utterance, rng, TRAINING)
    if rng.random() < 0.65:
        utterance = as_typed(utterance, rng)
    return TYPED[rng.choice(AT_THE_END)](utterance, rng, TRAINING) if rng.random() < 0.1 else utterance


class SlotValues:
    """Substitution of slot values by others from the same data."""

    def __init__(self, utterances: Iterable[Utterance]) -> None:
        found: dict[tuple[str, str], dict[str, None]] = {}
        for utterance in utterances:
            for slot in utterance.slots:
                found.setdefault((utterance.locale, slot.name), {})[utterance.value(slot)] = None
        self._values = {key: list(values) for key, values in found.items()}

    def substitute(self, utterance: Utterance, rng: random.Random, share: float = 0.5) -> Utterance:
        """Each slot with probability `share` gets a value that it has elsewhere in the locale, each equally likely.

        "weck mich am [date : freitag]" becomes "weck mich am [date : nächsten montag]": most sentences stay plausible,
        but not always grammatical.
        """
        text, slots, position = "", [], 0
        for slot in utterance.slots:
            text += utterance.text[position : slot.start]
            known = self._values.get((utterance.locale, slot.name), ()) if rng.random() < share else ()
            value = rng.choice(known) if known else utterance.value(slot)
            slots.append(Slot(slot.name, len(text), len(text) + len(value)))
            text, position = text + value, slot.end
        return replace(utterance, text=text + utterance.text[position:], slots=tuple(slots))


def words_outside_slots(utterance: Utterance) -> list[tuple[int, int]]:
    """Runs between white space that share no character with a slot, as (start, end)."""
    words = (word.span() for word in re.finditer(r"\S+", utterance.text))
    return [(start, end) for start, end in words if not any(s.start < end and start < s.end for s in utterance.slots)]


def swapped(utterance: Utterance, rng: random.Random, share: float) -> Utterance:
    """A share of the words outside slots, at least one, each change places with another one (Wei and Zou 2019)."""
    spans = words_outside_slots(utterance)
    order = list(range(len(spans)))
    for _ in range(max(1, round(share * len(spans))) if len(spans) > 1 else 0):
        one, other = rng.sample(order, 2)
        order[one], order[other] = order[other], order[one]
    moved = [utterance.text[spans[i][0] : spans[i][1]] for i in order]
    return edit(utterance, [(*span, word) for span, word in zip(spans, moved, strict=True)])


def shortened(utterance: Utterance, rng: random.Random, share: float) -> Utterance:
    """The utterance without a share of the words outside slots, at least one (Wei and Zou 2019); one word stays."""
    spans, words = words_outside_slots(utterance), list(re.finditer(r"\S+", utterance.text))
    if len(words) < 2 or not spans:
        return utterance
    chosen = set(rng.sample(spans, min(max(1, round(share * len(spans))), len(words) - 1)))
    edits, last = [], 0
    for i, word in enumerate(words):
        if word.span() in chosen:
            is_end = i == len(words) - 1  # with the space before it, unless that is gone
            span = (max(last, words[i - 1].end()), word.end()) if is_end else (word.start(), words[i + 1].start())
            edits.append((*span, ""))
            last = span[1]
    return edit(utterance, edits)


def typed_copy(utterances: Sequence[Utterance], seed: int = 0) -> list[Utterance]:
    """The typed copy of a partition, on which robustness is reported; deterministic for a seed."""
    rng = random.Random(seed)
    return [as_typed(u, rng) for u in utterances]
