"""What the starts and ends of slots count, and slots whose edges lie inside words.

This project counts code points, with the end exclusive. Other tools count UTF-16 units (JavaScript, C#) or bytes, or
give the last character as the end.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from training.data.formats.base import Notes, Offsets
from training.data.locales import language_of
from training.data.utterances import RecordError, Slot, Utterance

# Scripts whose characters are words of their own (`training.text.tokenizer.WORD_SPLIT`), by names of characters
_WORDS_OF_ONE_CHARACTER = ("CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA")
_RUNS = frozenset(("th", "lo", "km", "my", "bo", "dz"))  # languages without spaces, whose words are runs between spaces
_HINTS = {
    "inclusive": "inclusive ends? Then: distilled-nlu convert --offsets inclusive",
    "utf16": "offsets in UTF-16 units? Then: distilled-nlu convert --offsets utf16",
    "bytes": "offsets in bytes? Then: distilled-nlu convert --offsets bytes",
}
_OTHERS: tuple[Offsets, ...] = ("inclusive", "utf16", "bytes")
_ENOUGH = 0.9  # share of the broken slots that another reading has to mend


def code_points(text: str, start: int, end: int, offsets: Offsets) -> tuple[int, int] | None:
    """A span in code points of the text, end exclusive. None: the offsets lie outside or within a character."""
    if offsets in ("characters", "inclusive"):
        end += offsets == "inclusive"
        return (start, end) if 0 <= start < end <= len(text) else None
    width = _utf16_width if offsets == "utf16" else _bytes_width
    place = {units: i for i, units in enumerate(accumulate(map(width, text), initial=0))}
    found = place.get(start), place.get(end)
    return (found[0], found[1]) if found[0] is not None and found[1] is not None and start < end else None


def _utf16_width(character: str) -> int:
    return 1 + (character > "\uffff")


def _bytes_width(character: str) -> int:
    return len(character.encode("utf-8", "surrogatepass"))


def slot_of(text: str, name: str, start: int, end: int, offsets: Offsets, field: str = "slots") -> Slot:
    """A slot from the offsets of another tool, without the white space around its value.

    Raises RecordError: the offsets lie outside the text or within a character; the message says what they may count.
    """
    span = code_points(text, start, end, offsets)
    if span is None:
        counted = "" if offsets == "characters" else f", counted as {offsets}"
        allowed = f"allowed: 0 <= start < end <= {len(text)}"
        other = next((o for o in _OTHERS if o != offsets and _is_clean(text, start, end, o)), None)
        hint = f"; {_HINTS[other]}" if other and offsets == "characters" else ""
        raise RecordError(field, f"{name!r} has offsets {start}..{end}{counted}; {allowed}{hint}")
    return Slot(name, *span)


def trimmed(text: str, slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """The slots without the white space around their values; a blank one stays, and is refused later."""
    return tuple(_trimmed(text, slot) for slot in slots)


def _trimmed(text: str, slot: Slot) -> Slot:
    value = text[slot.start : slot.end]
    if value == value.strip() or not value.strip():
        return slot
    start = slot.start + len(value) - len(value.lstrip())
    return Slot(slot.name, start, start + len(value.strip()))


def is_inside_word(text: str, edge: int) -> bool:
    """Whether letters, digits or their marks (such as vowel signs) stand on both sides of a position."""
    return 0 < edge < len(text) and _is_of_word(text[edge - 1]) and _is_of_word(text[edge])


def _is_of_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character) in ("Mn", "Mc")


def is_within_token(text: str, edge: int) -> bool:
    """Whether no student can begin or end a slot here: inside a word, and not beside a character that is one itself."""
    if not is_inside_word(text, edge):
        return False
    names = (unicodedata.name(character, "") for character in text[edge - 1 : edge + 1])
    return not any(name.startswith(_WORDS_OF_ONE_CHARACTER) for name in names)


def _is_clean(text: str, start: int, end: int, offsets: Offsets) -> bool:
    span = code_points(text, start, end, offsets)
    return span is not None and not any(is_within_token(text, edge) for edge in span)


class BrokenSlot(NamedTuple):
    """A slot that begins or ends inside a word."""

    place: str
    utterance: Utterance
    slot: Slot


def broken_slots(places: Sequence[str], utterances: Sequence[Utterance]) -> list[BrokenSlot]:
    """The slots with an edge inside a word, which no student can express."""
    return [
        BrokenSlot(place, utterance, slot)
        for place, utterance in zip(places, utterances, strict=True)
        for slot in utterance.slots
        if any(is_within_token(utterance.text, edge) for edge in (slot.start, slot.end))
    ]


def report_broken_slots(broken: Sequence[BrokenSlot], total: int, notes: Notes) -> None:
    """Warn of slots with edges inside words, with count, example and the likely cause; `total` are all slots."""
    if not broken:
        return
    first = broken[0]
    text, slot = first.utterance.text, first.slot
    shown = f"{slot.name} = {text[slot.start : slot.end]!r} in {_around(text, slot)!r}"
    share = f"{len(broken)} of {total} slots ({len(broken) / total:.0%})"
    said = f"{share} begin or end inside a word, the first: {shown}"
    notes.warn(first.place, f"slots: {said}; {_cause(broken)}")


def _cause(broken: Sequence[BrokenSlot]) -> str:
    if all(language_of(b.utterance.locale) in _RUNS for b in broken):
        return (
            "a student labels runs between spaces, and this language is written without: such slots are out of reach; "
            "put spaces around words, in training data and requests, as MASSIVE does"
        )
    for offsets in _OTHERS:
        mended = sum(_is_clean(b.utterance.text, b.slot.start, b.slot.end, offsets) for b in broken)
        if mended >= _ENOUGH * len(broken):
            ends = f"all {mended} ends are one short: " if offsets == "inclusive" and mended == len(broken) else ""
            return f"{ends}{_HINTS[offsets]}"
    return "a student labels whole words, so it will answer with the whole word (a part of a compound is out of reach)"


def _around(text: str, slot: Slot) -> str:
    """The words that a slot touches."""
    start, end = slot.start, slot.end
    while start and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return text[start:end]
