"""MASSIVE's inline annotation: ``wake me [date : friday] at [time : nine]``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.data.utterances import RecordError, Slot, check_slot_name

_SLOT = re.compile(r"\[([^\[\]]*?) : ([^\[\]]*)\]")
_ALMOST = re.compile(r"\[[^\[\]]*:[^\[\]]*\]")
FIELD = "annot_utt"


def parse(annotation: str, field: str = FIELD) -> tuple[str, tuple[Slot, ...]]:
    """Annotated text to (plain text, slots); errors name the `field`.

    Raises RecordError: a bracket without its partner, a slot without name or value.
    """
    parts: list[str] = []
    slots: list[Slot] = []
    length = position = 0
    for match in _SLOT.finditer(annotation):
        before, name, value = annotation[position : match.start()], match[1], match[2]
        _refuse_brackets(before, field)
        check_slot_name(name, field)
        if not value.strip():
            raise RecordError(field, f"slot {name!r} has no value; allowed: [name : value]")
        start = length + len(before)
        parts += (before, value)
        length = start + len(value)
        slots.append(Slot(name, start, length))
        position = match.end()
    _refuse_brackets(annotation[position:], field)
    parts.append(annotation[position:])
    return "".join(parts), tuple(slots)


def render(text: str, slots: Sequence[Slot]) -> str:
    """The inverse of `parse`: text and slots to annotated text.

    Raises RecordError: the text holds square brackets, which the annotation cannot carry.
    """
    _refuse_brackets(text, FIELD)
    parts: list[str] = []
    position = 0
    for slot in slots:
        parts += (text[position : slot.start], f"[{slot.name} : {text[slot.start : slot.end]}]")
        position = slot.end
    parts.append(text[position:])
    return "".join(parts)


def align(text: str, annotation: str, field: str = FIELD) -> tuple[Slot, ...]:
    """Slots of `annotation` in offsets of `text`, which may lack some of the annotation's white space.

    MASSIVE's Japanese and Chinese rows put spaces around slots that `utt` doesn't have. Characters other than white
    space must agree one by one; a row where they don't is refused rather than shifted. Raises RecordError: the texts
    differ in more than white space.
    """
    plain, slots = parse(annotation, field)
    if plain == text:
        return slots
    kept, marked = ([i for i, c in enumerate(side) if not c.isspace()] for side in (text, plain))
    if [text[i] for i in kept] != [plain[i] for i in marked]:
        problem = "differs from utt in more than white space"
        raise RecordError(field, f"{problem}; allowed: the same text with [name : value] marks")
    place = dict(zip(marked, kept, strict=True))
    inside = [[place[i] for i in range(slot.start, slot.end) if i in place] for slot in slots]
    return tuple(Slot(s.name, places[0], places[-1] + 1) for s, places in zip(slots, inside, strict=True))


def _refuse_brackets(text: str, field: str) -> None:
    for character in "[]":
        if character in text:
            almost = _ALMOST.search(text)
            found = f" (in {almost[0]!r}: a space stands on both sides of the colon)" if almost else ""
            raise RecordError(field, f"{character!r} outside a slot{found}; allowed: brackets only as [name : value]")
