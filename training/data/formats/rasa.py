"""Rasa's training data: YAML (version 2 and 3) and Markdown (version 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from training.data.formats.base import Content, Draft, Reading, Row
from training.data.formats.marks import parse_rasa
from training.data.formats.yaml_nodes import Entry, documents, items_of, looks_like_yaml, text_of
from training.data.utterances import RecordError

_OTHER_KEYS = ("synonym", "lookup", "regex")
_NOT_READ = "is not read: students learn from marked text alone"
_SECTION = re.compile(r"##\s*(intent|synonym|lookup|regex)\s*:\s*(.*?)\s*$")


def is_rasa(content: Content) -> bool:
    """YAML with one of the keys of Rasa's files."""
    return content.text[:1] not in ("{", "[") and looks_like_yaml(content, "nlu", "stories", "rules", "responses")


def read_rasa(content: Content, reading: Reading) -> Iterator[Row]:
    """The examples of each intent. Synonyms, look-up tables and regular expressions are noted."""
    content.note_encoding(reading.notes)
    for document in documents(content):
        sections = document.get("nlu") if isinstance(document, dict) else None
        if sections is None:
            reading.notes.info(content.place, "holds no key 'nlu': not read")
        for section in items_of(sections):
            yield from _section(section, content.place, reading)


def _section(section: Entry, place: str, reading: Reading) -> Iterator[Row]:
    fields: Any = section.value
    if not isinstance(fields, dict):
        yield f"{place}:{section.line}", RecordError("nlu", f"holds {fields!r}; allowed: - intent: NAME, with examples")
        return
    intent = text_of(fields.get("intent"))
    if intent is None:
        kind = next((key for key in _OTHER_KEYS if key in fields), None)
        found = f"the section of a {kind}" if kind else f"the section with {', '.join(map(repr, fields))}"
        reading.notes.warn(f"{place}:{section.line}", f"{found} {_NOT_READ}")
        return
    for line, text in _examples(fields.get("examples"), place, reading):
        yield _row(text, intent, f"{place}:{line}", reading)


def _examples(examples: Entry | None, place: str, reading: Reading) -> Iterator[tuple[int, str]]:
    """(line, marked text) of a literal block of "- text" lines, or of a list of {text, metadata}."""
    if examples is None:
        return
    if isinstance(examples.value, str):
        for number, line in enumerate(examples.value.split("\n"), examples.line):
            if line.strip().startswith("-"):
                yield number, line.strip()[1:].strip()
            elif line.strip() and not line.strip().startswith("#"):
                reading.notes.warn(f"{place}:{number}", "a line of examples without '- ' in front is not read")
    for item in items_of(examples):
        text = text_of(item.value.get("text")) if isinstance(item.value, dict) else text_of(item)
        if text is None:
            reading.notes.warn(f"{place}:{item.line}", "an example without text is not read")
        else:
            yield item.line, text.strip().removeprefix("- ").strip()


def _row(marked: str, intent: str, place: str, reading: Reading) -> Row:
    try:
        text, slots = parse_rasa(marked, place, reading.notes)
        return place, Draft(text, intent, slots)
    except RecordError as error:
        return place, error


def is_markdown(content: Content) -> bool:
    """Sections such as "## intent:greet"."""
    return any(_SECTION.match(line) for line in content.lines if line.startswith("##"))


def read_markdown(content: Content, reading: Reading) -> Iterator[Row]:
    """The examples of each intent; other sections are noted."""
    content.note_encoding(reading.notes)
    intent: str | None = None
    for number, line in enumerate(content.lines, 1):
        place = f"{content.place}:{number}"
        if line.startswith("##"):
            section = _SECTION.match(line)
            intent = section[2] if section and section[1] == "intent" else None
            if intent is None:
                found = f"the section of a {section[1]}" if section else f"the section {line.strip('# ')!r}"
                reading.notes.warn(place, f"{found} {_NOT_READ}")
        elif intent is not None and line.lstrip()[:1] in ("-", "*", "+"):
            yield _row(line.strip()[1:].strip(), intent, place, reading)
        elif intent is not None and line.strip() and not line.lstrip().startswith("<!--"):
            reading.notes.warn(place, "a line without '- ' in front is not read")
