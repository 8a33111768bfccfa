"""Formats in which a text is a list of parts, some of them slots: Dialogflow ES and Snips."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from training.data.formats.base import Content, Draft, Reading, Row
from training.data.formats.marks import parse_snips
from training.data.formats.yaml_nodes import documents, items_of, looks_like_yaml, text_of
from training.data.utterances import RecordError, Slot, check_slot_name

_USERSAYS = re.compile(r"(?P<intent>.+)_usersays_(?P<locale>[\w-]+)\.json")
_ENTRIES = re.compile(r".+_entries_[\w-]+\.json")
_DIALOGFLOW_FILES = ("package.json", "agent.json")


def draft_of(parts: Any, names: Sequence[str], **labels: str | None) -> Draft:
    """A draft of parts {text, and the slot's name under one of `names`}. Raises RecordError: another form."""
    if not isinstance(parts, list) or not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise RecordError("data", f"is {parts!r}; allowed: a list of {{text, {names[0]}}}")
    text, slots = "", []
    for part in parts:
        name = next((str(part[key]).removeprefix("@") for key in names if part.get(key)), None)
        value = part["text"]
        if name and value.strip() and part.get("meta") != "@sys.ignore":
            check_slot_name(name, "data")
            start = len(text) + len(value) - len(value.lstrip())
            slots.append(Slot(name, start, start + len(value.strip())))
        text += value
    return Draft(text, slots=tuple(slots), **labels)


def is_dialogflow(content: Content) -> bool:
    """A file of an exported Dialogflow ES agent."""
    name, json = content.name, content.json
    if _USERSAYS.fullmatch(name):
        return isinstance(json, list)
    if name in _DIALOGFLOW_FILES or _ENTRIES.fullmatch(name):
        return True
    is_inside = PurePosixPath(content.file.name).parent.name in ("intents", "entities")
    return isinstance(json, dict) and is_inside and "name" in json


def read_dialogflow(content: Content, reading: Reading) -> Iterator[Row]:
    """The phrases of an intent in a language; other files of the agent hold none."""
    found = _USERSAYS.fullmatch(content.name)
    if found is None:
        if _ENTRIES.fullmatch(content.name):
            reading.notes.warn(content.place, "entries of an entity are not read: students learn from phrases")
        return
    about = content.sibling(f"{found['intent']}.json")
    named = about.json.get("name") if about is not None and isinstance(about.json, dict) else None
    intent = named if isinstance(named, str) else found["intent"]
    for number, phrase in enumerate(content.json):
        place = f"{content.place}[{number}]"
        try:
            if isinstance(phrase, dict) and phrase.get("isTemplate"):
                reading.notes.warn(place, "a template is not read: it has no values")
                continue
            parts = phrase.get("data") if isinstance(phrase, dict) else phrase
            yield place, draft_of(parts, ("alias", "meta"), intent=intent, locale=found["locale"])
        except RecordError as error:
            yield place, error


def is_snips(content: Content) -> bool:
    """A Snips data set, or a file of the 2017 benchmark: {"Intent": [{"data": [...]}]}."""
    json = content.json
    return isinstance(json, dict) and any(True for _ in _snips_intents(json))


def _snips_intents(json: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    intents = json.get("intents") if isinstance(json.get("intents"), dict) else json
    for name, found in (intents or {}).items():
        utterances = found.get("utterances") if isinstance(found, dict) else found
        if isinstance(utterances, list) and utterances and isinstance(utterances[0], dict) and "data" in utterances[0]:
            yield name, utterances


def read_snips(content: Content, reading: Reading) -> Iterator[Row]:
    """The utterances of each intent, parts joined. Entities with their own values are noted."""
    content.note_encoding(reading.notes)
    json: dict[str, Any] = content.json
    _note_entities(json.get("entities"), content.place, reading)
    language = json.get("language")
    for intent, utterances in _snips_intents(json):
        for number, row in enumerate(utterances):
            place = f"{content.place}:{intent}[{number}]"
            parts = row.get("data") if isinstance(row, dict) else row
            try:
                locale = language if isinstance(language, str) else None
                yield place, draft_of(parts, ("slot_name", "entity"), intent=intent, locale=locale)
            except RecordError as error:
                yield place, error


def _note_entities(entities: Any, place: str, reading: Reading) -> None:
    for name, entity in entities.items() if isinstance(entities, dict) else ():
        if isinstance(entity, dict) and entity.get("data"):
            said = "the values of an entity are not read: students learn from utterances"
            reading.notes.warn(f"{place}:{name}", said)


def is_snips_yaml(content: Content) -> bool:
    """Documents with "type: intent" or "type: entity"."""
    return looks_like_yaml(content, "type") and any(line.startswith("type: ") for line in content.lines)


def read_snips_yaml(content: Content, reading: Reading) -> Iterator[Row]:
    """The utterances of each intent: ``set the light to [colour:colour](red)``."""
    content.note_encoding(reading.notes)
    for document in documents(content):
        name = text_of(document.get("name")) if isinstance(document, dict) else None
        if not isinstance(document, dict) or text_of(document.get("type")) != "intent" or name is None:
            reading.notes.warn(f"{content.place}:{name}", "a document that is no intent is not read")
            continue
        for item in items_of(document.get("utterances")):
            place = f"{content.place}:{item.line}"
            try:
                text, slots = parse_snips(str(item.value), place, reading.notes)
                yield place, Draft(text, name, slots)
            except RecordError as error:
                yield place, error
