"""Alexa's interaction model: samples with {slots}, filled with the values of the slots' types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from training.data.formats.base import Content, Draft, Reading, Row
from training.data.formats.values import list_of, record_of, text_of
from training.data.utterances import RecordError, Slot, check_slot_name

MAX_FILLED = 5  # utterances of one sample
_SLOT = re.compile(r"\{(?:(?P<value>[^{}|]+)\|\s*)?(?P<name>[^{}|]+)\}")


def is_alexa(content: Content) -> bool:
    """An interaction model, or the language model within."""
    return bool(_language_model(content.json))


def _language_model(json: Any) -> Mapping[str, Any]:
    model = json.get("interactionModel", json) if isinstance(json, dict) else {}
    found = model.get("languageModel", {}) if isinstance(model, dict) else {}
    return found if isinstance(found, dict) and isinstance(found.get("intents"), list) else {}


def read_alexa(content: Content, reading: Reading) -> Iterator[Row]:
    """Up to `MAX_FILLED` utterances of each sample, the values of its slots taken in turn.

    A sample with a slot whose type has no values in the model (AMAZON.DATE) is noted and left out.
    """
    content.note_encoding(reading.notes)
    model = _language_model(content.json)
    types = [found for found in _objects(model.get("types")) if isinstance(found.get("name"), str)]
    values = {found["name"]: _values(found) for found in types}
    for intent in model["intents"]:
        name = intent.get("name") if isinstance(intent, dict) else intent
        place = f"{content.place}:{name}"
        try:
            fields = record_of(intent, "intents")
            label = text_of(fields.get("name"), "name")
            slots = {str(slot.get("name")): str(slot.get("type")) for slot in _objects(fields.get("slots"))}
            for number, sample in enumerate(list_of(fields.get("samples"), "samples")):
                place = f"{content.place}:{name}[{number}]"
                text = text_of(sample, "samples")
                yield from ((place, draft) for draft in _filled(text, label, slots, values, place, reading))
        except RecordError as error:
            yield place, error


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _values(type_: Mapping[str, Any]) -> list[str]:
    """The values of a type, then their synonyms."""
    names = [found["name"] for found in _objects(type_.get("values")) if isinstance(found.get("name"), dict)]
    first = [name.get("value") for name in names]
    synonyms = [s for name in names if isinstance(name.get("synonyms"), list) for s in name["synonyms"]]
    return list(dict.fromkeys(value for value in (*first, *synonyms) if isinstance(value, str) and value.strip()))


def _filled(
    sample: str,
    intent: str,
    types: Mapping[str, str],
    values: Mapping[str, Sequence[str]],
    place: str,
    reading: Reading,
) -> Iterator[Draft]:
    choices: list[Sequence[str]] = []
    for match in _SLOT.finditer(sample):
        check_slot_name(match["name"].strip(), "samples")
        kind = types.get(match["name"].strip(), "(none)")
        found = [match["value"].strip()] if match["value"] else values.get(kind, ())
        if not found:
            said = f"samples with a slot of type {kind!r} are not read: the model has no values for it"
            reading.notes.warn(place, said)
            return
        choices.append(found)
    count = min(MAX_FILLED, max((len(found) for found in choices), default=1))
    if choices:
        reading.notes.info(place, f"samples are filled with values of their slots' types, at most {MAX_FILLED} each")
    for turn in range(count):
        text, slots, position = "", [], 0
        for match, found in zip(_SLOT.finditer(sample), choices, strict=True):
            text += sample[position : match.start()]
            value = found[turn % len(found)]
            slots.append(Slot(match["name"].strip(), len(text), len(text) + len(value)))
            text, position = text + value, match.end()
        yield Draft(text + sample[position:], intent, tuple(slots))
