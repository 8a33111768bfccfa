"""Microsoft's language services: LUIS and Conversational Language Understanding (CLU)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.data.formats.base import Content, Draft, Offsets, Reading, Row
from training.data.formats.values import label_of, list_of, number_of, record_of, text_of
from training.data.offsets import slot_of, trimmed
from training.data.utterances import DatasetError, RecordError, Slot, check_slot_name

_INDEX_TYPES: dict[str, Offsets] = {"utf16codeunit": "utf16", "unicodecodepoint": "characters"}
_LUIS_LISTS = ("closedLists", "patterns", "regex_entities", "regex_features", "phraselists", "model_features")
_CLU_KINDS = ("list", "prebuilts", "regex")


def is_luis(content: Content) -> bool:
    """An exported LUIS app, of any version."""
    json = content.json
    has_utterances = isinstance(json, dict) and isinstance(json.get("utterances"), list)
    return has_utterances and ("luis_schema_version" in json or "culture" in json)


def read_luis(content: Content, reading: Reading) -> Iterator[Row]:
    """The utterances of an app; `endPos` is the last UTF-16 unit. Patterns and lists are noted."""
    app: Mapping[str, Any] = content.json
    content.note_encoding(reading.notes)
    for name in _LUIS_LISTS:
        if isinstance(app.get(name), list) and app[name]:
            said = f"{name}: {len(app[name])} entries are not read: students learn from text"
            reading.notes.warn(content.place, said)
    for number, row in enumerate(app["utterances"]):
        place = f"{content.place}:utterances[{number}]"
        try:
            fields = record_of(row, "utterances")
            text = text_of(fields.get("text"), "text")
            found = [_luis_slot(text, entity, place, reading) for entity in list_of(fields.get("entities"), "entities")]
            intent, locale = label_of(fields.get("intent"), "intent"), label_of(app.get("culture"), "culture")
            yield place, Draft(text, intent, _ordered(text, found), locale=locale)
        except RecordError as error:
            yield place, error


def _luis_slot(text: str, entity: Any, place: str, reading: Reading) -> Slot:
    fields = record_of(entity, "entities")
    if fields.get("children"):
        reading.notes.warn(place, "the children of an entity are not read: slots do not nest")
    name, role = text_of(fields.get("entity"), "entity"), label_of(fields.get("role"), "role")
    start, end = number_of(fields.get("startPos"), "startPos"), number_of(fields.get("endPos"), "endPos")
    return _slot(text, f"{name}.{role}" if role else name, start, end + 1, "utf16")


def is_clu(content: Content) -> bool:
    """An exported project of Conversational Language Understanding."""
    assets = content.json.get("assets") if isinstance(content.json, dict) else None
    return isinstance(assets, dict) and isinstance(assets.get("utterances"), list)


def read_clu(content: Content, reading: Reading) -> Iterator[Row]:
    """The utterances of a project, with offsets as `stringIndexType` says. Lists of entities are noted.

    Raises DatasetError: the offsets count text elements, which depend on a version of Unicode.
    """
    project: Mapping[str, Any] = content.json
    content.note_encoding(reading.notes)
    index_type = str(project.get("stringIndexType") or "Utf16CodeUnit")
    if index_type.lower() not in _INDEX_TYPES:
        allowed = "allowed: Utf16CodeUnit, UnicodeCodePoint; export the project with one of them"
        raise DatasetError(f"{content.place}: stringIndexType: is {index_type!r}; {allowed}")
    entities, metadata = project["assets"].get("entities"), project.get("metadata")
    for entity in entities if isinstance(entities, list) else ():
        if isinstance(entity, dict) and any(entity.get(kind) for kind in _CLU_KINDS):
            said = "the list, prebuilt or regular expression of an entity is not read: students learn from text"
            reading.notes.warn(f"{content.place}:{entity.get('category')}", said)
    language = metadata.get("language") if isinstance(metadata, dict) else None
    for number, row in enumerate(project["assets"]["utterances"]):
        place = f"{content.place}:utterances[{number}]"
        try:
            yield place, _clu_draft(record_of(row, "utterances"), _INDEX_TYPES[index_type.lower()], language)
        except RecordError as error:
            yield place, error


def _clu_draft(row: Mapping[str, Any], offsets: Offsets, language: Any) -> Draft:
    text, slots = text_of(row.get("text"), "text"), []
    for entity in list_of(row.get("entities"), "entities"):
        fields = record_of(entity, "entities")
        name, start = text_of(fields.get("category"), "category"), number_of(fields.get("offset"), "offset")
        slots.append(_slot(text, name, start, start + number_of(fields.get("length"), "length"), offsets))
    return Draft(
        text,
        label_of(row.get("intent"), "intent"),
        _ordered(text, slots),
        locale=label_of(row.get("language") or language, "language"),
        partition=label_of(row.get("dataset"), "dataset"),
    )


def _slot(text: str, name: str, start: int, end: int, offsets: Offsets) -> Slot:
    check_slot_name(name, "entities")
    return slot_of(text, name, start, end, offsets, "entities")


def _ordered(text: str, slots: list[Slot]) -> tuple[Slot, ...]:
    return tuple(sorted(dict.fromkeys(trimmed(text, slots)), key=lambda slot: (slot.start, slot.end)))
