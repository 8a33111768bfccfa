"""Alexa's interaction model: samples with {slots}, filled with the values of the slots' types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from training.data.formats.base import Content, Draft, Reading, Row
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
    values = {t.get("name"): _values(t) for t in model.get("types") or () if isinstance(t, dict)}
    for intent in model["intents"]:
        name = str(intent.get("name"))
        types = {slot.get("name"): slot.get("type") for slot in intent.get("slots") or ()}
        for number, sample in enumerate(intent.get("samples") or ()):
            place = f"{content.place}:{name}[{number}]"
            try:
                yield from ((place, draft) for draft in _filled(str(sample), name, types, values, place, reading))
            except RecordError as error:
                yield place, error


def _values(type_: Mapping[str, Any]) -> list[str]:
    """The values of a type, then their synonyms."""
    names = [v.get("name") for v in type_.get("values") or () if isinstance(v, dict)]
    found = [n for n in names if isinstance(n, dict)]
    first = [str(n["value"]) for n in found if n.get("value")]
    return list(dict.fromkeys([*first, *(str(s) for n in found for s in n.get("synonyms") or ())]))


def _filled(
    sample: str,
    intent: str,
    types: Mapping[Any, Any],
    values: Mapping[Any, Sequence[str]],
    place: str,
    reading: Reading,
) -> Iterator[Draft]:
    choices: list[Sequence[str]] = []
    for match in _SLOT.finditer(sample):
        check_slot_name(match["name"].strip(), "samples")
        kind = types.get(match["name"].strip())
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
