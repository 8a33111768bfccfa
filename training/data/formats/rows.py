"""Rows of named fields (JSONL, CSV, Parquet, the hub) as drafts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from training.data import annotation
from training.data.formats.base import Draft, Offsets, Reading
from training.data.formats.columns import ColumnMap, map_columns
from training.data.offsets import slot_of, trimmed
from training.data.tags import slots_of_tags
from training.data.utterances import RecordError, Slot, check_slot_name

_SLOT_KEYS = {
    "name": ("name", "entity", "slot", "slot_name", "label", "category", "type"),
    "start": ("start", "startPos", "begin", "start_char"),
    "end": ("end", "endPos", "stop", "end_char"),
}
_SPAN = re.compile(r"(-?\d+):(-?\d+):(.+)")
_SLOTS_ALLOWED = "allowed: a list of {name, start, end}"


class RowReader:
    """Reads the rows of one source; remembers which column is which for each set of names."""

    def __init__(self, place: str, reading: Reading) -> None:
        self._place, self._reading = place, reading
        self._maps: dict[tuple[str, ...], ColumnMap] = {}

    def columns(self, names: Sequence[str]) -> ColumnMap:
        """Which column holds which field. Raises DatasetError: one of --columns is not there."""
        key = tuple(names)
        if key not in self._maps:
            self._maps[key] = map_columns(key, self._reading.options.columns, self._place, self._reading.notes)
        return self._maps[key]

    def draft(self, row: Mapping[str, Any], place: str) -> Draft:
        """One row as a draft. Raises RecordError: a field is missing, of the wrong type, or inconsistent."""
        column = self.columns(tuple(row)).of
        text, slots = self._labelled(row, column, place)
        return Draft(
            text=text,
            intent=_label(row, column.get("intent")),
            slots=slots,
            domain=_label(row, column.get("domain")),
            id=_optional(row, column.get("id"), numbers=True),
            locale=_optional(row, column.get("locale")),
            partition=_optional(row, column.get("partition")),
        )

    def _labelled(
        self, row: Mapping[str, Any], column: Mapping[str, str], place: str
    ) -> tuple[str, tuple[Slot, ...] | None]:
        """Text and slots: MASSIVE's utt beside annot_utt, an annotation alone, text with slots, or tokens with tags."""
        text, annotated, slots = column.get("text"), column.get("annotation"), column.get("slots")
        if text == "utt" and annotated == "annot_utt":
            plain = required(row, text)
            return plain, annotation.align(plain, required(row, annotated), annotated)
        if annotated is not None and row[annotated]:
            return annotation.parse(required(row, annotated), annotated)
        if text is None and "tokens" in column:
            return _of_tokens(row, column["tokens"], slots)
        if text is None:
            names = ", ".join(sorted(row)) or "(none)"
            allowed = "allowed: with 'text', 'annotation' or 'utt', or: distilled-nlu convert --columns text=NAME"
            raise RecordError("row", f"has the fields {names}; {allowed}")
        value = required(row, text)
        if slots is None or row[slots] is None or row[slots] == "":
            return value, None
        return value, self._slots(value, row[slots], slots, place)

    def _slots(self, text: str, value: Any, field: str, place: str) -> tuple[Slot, ...]:
        if isinstance(value, str):
            value = _of_string(value, field)
        found = slots_of(text, value, field, self._reading.options.offsets)
        neat = tuple(dict.fromkeys(trimmed(text, found)))
        if len(neat) < len(found):
            self._reading.notes.warn(place, f"{field}: the same slot stands twice in a row; read once")
        if len(neat) == len(found) and neat != found:
            self._reading.notes.warn(place, f"{field}: offsets take in the spaces around the value; read without them")
        return tuple(sorted(neat, key=lambda slot: (slot.start, slot.end)))


def required(row: Mapping[str, Any], name: str) -> str:
    """A text that a row must have. Raises RecordError: it is missing, empty or no text."""
    value = row.get(name)
    if not isinstance(value, str) or not value:
        found = "is missing" if value is None else f"is {value!r}"
        raise RecordError(name, f"{found}; allowed: a non-empty string")
    return value


def _optional(row: Mapping[str, Any], name: str | None, numbers: bool = False) -> str | None:
    if name is None or (value := row.get(name)) is None or value == "":
        return None
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return required(row, name)


def _label(row: Mapping[str, Any], name: str | None) -> str | None:
    value = row.get(name) if name is not None else None
    if name is not None and isinstance(value, int | float) and not isinstance(value, bool):
        lost = f"is the number {value!r}: the names of the labels are lost (a ClassLabel saved as its index)"
        raise RecordError(name, f"{lost}; allowed: a name; write the names into the file")
    return _optional(row, name)


def slots_of(text: str, value: Any, field: str, offsets: Offsets) -> tuple[Slot, ...]:
    """The slots of a list of {name, start, end} (or Rasa's "entity"), of [start, end, name] triples, or of BIO tags.

    Raises RecordError: another form, or offsets outside the text.
    """
    if not isinstance(value, list | tuple):
        raise RecordError(field, f"is {value!r}; {_SLOTS_ALLOWED}")
    if value and all(isinstance(item, str) for item in value):
        return slots_of_tags(text, value, field)
    slots = []
    for item in value:
        name, start, end = _parts(item, field)
        if not isinstance(name, str) or type(start) is not int or type(end) is not int:
            raise RecordError(field, f"holds {item!r}; allowed: name a string, start and end whole numbers")
        check_slot_name(name, field)
        slots.append(slot_of(text, name, start, end, offsets, field))
    return tuple(slots)


def _parts(item: Any, field: str) -> tuple[Any, Any, Any]:
    if isinstance(item, Mapping):
        found = [next((item[key] for key in keys if key in item), None) for keys in _SLOT_KEYS.values()]
        if all(part is not None for part in found):
            role = item.get("role")
            return f"{found[0]}.{role}" if isinstance(role, str) and role else found[0], found[1], found[2]
    elif isinstance(item, list | tuple) and len(item) == 3:
        return item[2], item[0], item[1]
    raise RecordError(field, f"holds {item!r}; allowed: {{name, start, end}}")


def _of_string(value: str, field: str) -> list[Any]:
    """Slots in a cell: a JSON list, BIO tags, or "start:end:name,..."."""
    if value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except json.JSONDecodeError as error:
            raise RecordError(field, f"is no JSON ({error.msg} at column {error.colno}); {_SLOTS_ALLOWED}") from None
        return list(found)
    spans = [_SPAN.fullmatch(part.strip()) for part in value.split(",")]
    if all(spans):
        return [(int(span[1]), int(span[2]), span[3]) for span in spans if span]
    tags = value.split()
    if all(tag == "O" or tag[1:2] == "-" for tag in tags):
        return list(tags)
    raise RecordError(field, f"is {value!r}; {_SLOTS_ALLOWED} as JSON, 'start:end:name,...', or one BIO tag a word")


def _of_tokens(row: Mapping[str, Any], tokens: str, slots: str | None) -> tuple[str, tuple[Slot, ...] | None]:
    words = row[tokens]
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise RecordError(tokens, f"is {words!r}; allowed: a list of words")
    text = " ".join(words)
    if slots is None or row[slots] is None:
        return text, None
    return text, slots_of_tags(text, row[slots], slots, words)
