"""Microsoft's language services: LUIS and Conversational Language Understanding (CLU)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.data.formats.base import Content, Draft, Offsets, Reading, Row
from training.data.offsets import slot_of, trimmed
from training.data.utterances import DatasetError, RecordError, Slot, check_slot_name

_INDEX_TYPES: dict[str, Offsets] = {"utf16codeunit": "utf16", "unicodecodepoint": "characters"}
_LUIS_LISTS = ("closedLists", "patterns", "regex_entities", "regex_features", "phraselists", "model_features")


def is_luis(content: Content) -> bool:
    """An exported LUIS app, of any version."""
    json = content.json
    return isinstance(json, dict) and "utterances" in json and ("luis_schema_version" in json or "culture" in json)


def read_luis(content: Content, reading: Reading) -> Iterator[Row]:
    """The utterances of an app; `endPos` is the last UTF-16 unit. Patterns and lists are noted."""
    app: Mapping[str, Any] = content.json
    content.note_encoding(reading.notes)
    for name in _LUIS_LISTS:
        if app.get(name):
            reading.notes.warn(
                content.place, f"{name}: {len(app[name])} entries are not read: students learn from text"
            )
    for number, row in enumerate(_listed(app, "utterances", content.place)):
        place = f"{content.place}:utterances[{number}]"
        try:
            text = _text(row)
            slots = [_luis_slot(text, entity, place, reading) for entity in row.get("entities") or ()]
            yield place, Draft(text, row.get("intent") or None, _ordered(text, slots), locale=app.get("culture"))
        except RecordError as error:
            yield place, error


def _luis_slot(text: str, entity: Any, place: str, reading: Reading) -> Slot:
    if not isinstance(entity, dict) or not {"entity", "startPos", "endPos"} <= entity.keys():
        raise RecordError("entities", f"holds {entity!r}; allowed: {{entity, startPos, endPos}}")
    if entity.get("children"):
        reading.notes.warn(place, "the children of an entity are not read: slots do not nest")
    name = f"{entity['entity']}.{entity['role']}" if entity.get("role") else str(entity["entity"])
    check_slot_name(name, "entities")
    return slot_of(text, name, int(entity["startPos"]), int(entity["endPos"]) + 1, "utf16", "entities")


def is_clu(content: Content) -> bool:
    """An exported project of Conversational Language Understanding."""
    json = content.json
    return isinstance(json, dict) and isinstance(json.get("assets"), dict) and "utterances" in json["assets"]


def read_clu(content: Content, reading: Reading) -> Iterator[Row]:
    """The utterances of a project, with offsets as `stringIndexType` says. Lists of entities are noted.

    Raises DatasetError: the offsets count text elements, which depend on a version of Unicode.
    """
    project: Mapping[str, Any] = content.json
    content.note_encoding(reading.notes)
    assets = project["assets"]
    index_type = str(project.get("stringIndexType", "Utf16CodeUnit"))
    if index_type.lower() not in _INDEX_TYPES:
        allowed = "allowed: Utf16CodeUnit, UnicodeCodePoint; export the project with one of them"
        raise DatasetError(f"{content.place}: stringIndexType: is {index_type!r}; {allowed}")
    for entity in assets.get("entities") or ():
        if isinstance(entity, dict) and any(entity.get(kind) for kind in ("list", "prebuilts", "regex")):
            said = f"entity {entity.get('category')!r}: its list, prebuilt or regular expression is not read"
            reading.notes.warn(content.place, said)
    language = (project.get("metadata") or {}).get("language")
    for number, row in enumerate(_listed(assets, "utterances", f"{content.place}:assets")):
        place = f"{content.place}:utterances[{number}]"
        try:
            yield place, _clu_draft(row, _INDEX_TYPES[index_type.lower()], language)
        except RecordError as error:
            yield place, error


def _clu_draft(row: Any, offsets: Offsets, language: str | None) -> Draft:
    text, slots = _text(row), []
    for entity in row.get("entities") or ():
        if not isinstance(entity, dict) or not {"category", "offset", "length"} <= entity.keys():
            raise RecordError("entities", f"holds {entity!r}; allowed: {{category, offset, length}}")
        name, start = str(entity["category"]), int(entity["offset"])
        check_slot_name(name, "entities")
        slots.append(slot_of(text, name, start, start + int(entity["length"]), offsets, "entities"))
    return Draft(
        text,
        row.get("intent") or None,
        _ordered(text, slots),
        locale=row.get("language") or language,
        partition=row.get("dataset") or None,
    )


def _listed(parent: Mapping[str, Any], name: str, place: str) -> list[Any]:
    if not isinstance(parent[name], list):
        raise DatasetError(f"{place}: {name}: is a {type(parent[name]).__name__}; allowed: a list")
    return list(parent[name])


def _text(row: Any) -> str:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text:
        raise RecordError("text", f"is {text!r}; allowed: a non-empty string")
    return text


def _ordered(text: str, slots: list[Slot]) -> tuple[Slot, ...]:
    return tuple(sorted(dict.fromkeys(trimmed(text, slots)), key=lambda slot: (slot.start, slot.end)))
