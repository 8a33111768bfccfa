"""Text with slots marked as in Markdown: ``[value](name)``, ``[value]{"entity": "name", "role": "to"}``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from training.data.formats.base import Notes
from training.data.utterances import RecordError, Slot, check_slot_name

_MARK = re.compile(
    r"\[(?P<value>[^\[\]]+)\](?:\((?P<name>[^()\[\]]+)\)|(?P<object>\{[^{}]*\})|\[(?P<objects>\{[^\[\]]*\})\])"
)
_SLOT_OF_SNIPS = re.compile(r"\[(?P<name>[^\[\]:()]+)(?::(?P<kind>[^\[\]()]*))?\]\((?P<value>[^()]*)\)")


class Marked(NamedTuple):
    """A plain text with its slots."""

    text: str
    slots: tuple[Slot, ...]


def parse_rasa(marked: str, place: str, notes: Notes) -> Marked:
    """Rasa's marks. A role is kept in the slot's name ("city.to"); groups and values of synonyms are said.

    Raises RecordError: what stands in braces is no JSON object with an "entity", or a slot's name is not allowed.
    """

    def slot(match: re.Match[str]) -> tuple[str, str]:
        if match["objects"] is not None:
            notes.warn(place, "several entities on one value: the first is read, since a student gives one slot a word")
        if match["name"] is not None:
            name, colon, synonym = match["name"].partition(":")
            if colon and synonym:
                notes.warn(place, _SYNONYM)
            return name.strip(), match["value"]
        return _of_object(match["object"] or f"[{match['objects']}]", place, notes), match["value"]

    return _parse(marked, _MARK, slot, place, notes)


_SYNONYM = "the value of a synonym is not read: a student gives what stands in the text"


def _of_object(text: str, place: str, notes: Notes) -> str:
    try:
        found = json.loads(text)
        found = found[0] if isinstance(found, list) else found
        name = found["entity"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise RecordError(
            "text", f'{text} after a value; allowed: a JSON object such as {{"entity": "city"}}'
        ) from None
    if "value" in found:
        notes.warn(place, _SYNONYM)
    if "group" in found:
        notes.warn(place, "the group of an entity is not read: slots have a name, to which only a role is added")
    return f"{name}.{found['role']}" if found.get("role") else str(name)


def parse_snips(marked: str, place: str, notes: Notes) -> Marked:
    """The marks of Snips: ``[slot:entity](value)`` or ``[slot](value)``. Raises RecordError: as `parse_rasa`."""
    return _parse(marked, _SLOT_OF_SNIPS, lambda match: (match["name"].strip(), match["value"]), place, notes)


def _parse(
    marked: str, pattern: re.Pattern[str], slot_of: Callable[[re.Match[str]], tuple[str, str]], place: str, notes: Notes
) -> Marked:
    parts: list[str] = []
    slots: list[Slot] = []
    length = position = 0
    for match in pattern.finditer(marked):
        name, value = slot_of(match)
        check_slot_name(name, "text")
        before = marked[position : match.start()]
        parts += (before, value)
        start = length + len(before)
        length = start + len(value)
        inner = start + len(value) - len(value.lstrip())
        slots.append(Slot(name, inner, max(inner, start + len(value.rstrip()))))
        position = match.end()
    rest = marked[position:]
    outside = "".join((*parts[::2], rest))
    if "](" in outside or "]{" in outside:
        notes.warn(place, "brackets that look like a slot, but are none, are read as text")
    return Marked("".join((*parts, rest)), tuple(slots))
