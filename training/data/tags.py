"""Slots from one tag for each word: BIO, IOB1, BIOES and BILOU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from training.data.utterances import RecordError, Slot, check_slot_name

_OUTSIDE = ("O", "NoLabel")
_FIRST, _INNER = ("B", "S", "U"), ("I", "E", "L")


def slots_of_tags(text: str, tags: Any, field: str, words: Sequence[str] | None = None) -> tuple[Slot, ...]:
    """The slots of a text whose words (default: what stands between white space) have one tag each.

    A tag that continues a slot where none of that name is open begins one, as in IOB1. Raises RecordError: another
    number of tags than words, or a tag of another form.
    """
    spans = [m.span() for m in re.finditer(r"\S+", text)] if words is None else spans_of(text, words, field)
    if not isinstance(tags, Sequence) or len(tags) != len(spans):
        count = len(tags) if isinstance(tags, Sequence) else repr(tags)
        raise RecordError(field, f"{count} tags for {len(spans)} words; allowed: one tag for each word")
    slots: list[Slot] = []
    is_open = False
    for (start, end), tag in zip(spans, tags, strict=True):
        if tag in _OUTSIDE:
            is_open = False
            continue
        prefix, dash, name = str(tag).partition("-")
        if not dash or prefix not in (*_FIRST, *_INNER):
            raise RecordError(field, f"holds the tag {tag!r}; allowed: O, B-name, I-name (also E-, S-, L-, U-)")
        check_slot_name(name, field)
        if prefix in _INNER and is_open and slots[-1].name == name:
            slots[-1] = Slot(name, slots[-1].start, end)
        else:
            slots.append(Slot(name, start, end))
        is_open = prefix not in ("S", "U", "E", "L")
    return tuple(slots)


def spans_of(text: str, words: Sequence[str], field: str) -> list[tuple[int, int]]:
    """Start and end of each word in the text. Raises RecordError: one is not in it, in order."""
    spans, position = [], 0
    for word in words:
        start = text.find(word, position)
        if start < 0:
            raise RecordError(field, f"the word {word!r} is not in the text after character {position}")
        position = start + len(word)
        spans.append((start, position))
    return spans
