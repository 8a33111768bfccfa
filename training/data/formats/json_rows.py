"""JSON with one object for each utterance: JSONL, a list, a list for each partition, and Rasa's old JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from training.data.formats.base import Content, Reading, Row
from training.data.formats.rows import RowReader
from training.data.utterances import DatasetError, RecordError

_PAIR = ("text", "intent")  # the columns of rows that are lists of two


def is_jsonl(content: Content) -> bool:
    """One JSON object a line."""
    start = content.text.lstrip("\ufeff \t\r\n")[:1]
    if content.suffix == ".jsonl":
        return start != "[" or content.json is None
    if start != "{" or content.json is not None:
        return False
    first = next(line for line in content.lines if line.strip())
    try:
        return isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        return False


def read_jsonl(content: Content, reading: Reading) -> Iterator[Row]:
    """The rows of a file with one JSON object a line."""
    content.note_encoding(reading.notes)
    rows = RowReader(content.place, reading)
    for number, line in enumerate(content.lines, 1):
        if not line.strip():
            continue
        place = f"{content.place}:{number}"
        try:
            fields = json.loads(line)
            problem = f"is a JSON {type(fields).__name__}"
        except json.JSONDecodeError as error:
            fields, problem = None, f"is no JSON ({error.msg} at column {error.colno})"
        if isinstance(fields, dict):
            yield _row(rows, fields, place)
        else:
            yield place, RecordError("row", f"{problem}; allowed: one JSON object a line")


def _row(rows: RowReader, fields: Any, place: str) -> Row:
    if isinstance(fields, list) and len(fields) == 2:
        fields = dict(zip(_PAIR, fields, strict=True))
    if not isinstance(fields, dict):
        found = f"is a JSON {type(fields).__name__}"
        return place, RecordError("row", f"{found}; allowed: an object with 'text', or a pair of text and intent")
    try:
        return place, rows.draft(fields, place)
    except RecordError as error:
        return place, error


def is_list(content: Content) -> bool:
    """A list of objects or of pairs, or one such list for each partition."""
    return isinstance(content.json, list) or bool(_splits(content.json))


def _splits(value: Any) -> dict[str, list[Any]]:
    """The lists of {"train": [...], "val": [...]}; empty where the value has another form."""
    if isinstance(value, dict) and value and all(isinstance(part, list) for part in value.values()):
        rows = [row for part in value.values() for row in part[:1]]
        if rows and all((isinstance(row, list) and len(row) == 2) or _has_text(row) for row in rows):
            return value
    return {}


def _has_text(row: Any) -> bool:
    return isinstance(row, dict) and any(name in row for name in ("text", "utterance", "utt", "sentence", "query"))


def read_list(content: Content, reading: Reading) -> Iterator[Row]:
    """The rows of a JSON list, or of the lists of each partition ("val", "oos_test" ...)."""
    content.note_encoding(reading.notes)
    if isinstance(content.json, list):
        yield from _rows(content.json, content.place, reading)
        return
    for name, part in _splits(content.json).items():
        partition = name.removeprefix("oos_")  # as CLINC150 calls its out-of-scope texts
        for place, draft in _rows(part, f"{content.place}[{name}]", reading):
            if not isinstance(draft, RecordError) and draft.partition is None:
                draft = replace(draft, partition=partition)
            yield place, draft


def _rows(values: Iterable[Any], place: str, reading: Reading) -> Iterator[Row]:
    rows = RowReader(place, reading)
    for number, fields in enumerate(values):
        yield _row(rows, fields, f"{place}[{number}]")


def is_rasa_json(content: Content) -> bool:
    """Rasa's JSON format of training data, up to version 2."""
    return isinstance(content.json, dict) and "rasa_nlu_data" in content.json


def read_rasa_json(content: Content, reading: Reading) -> Iterator[Row]:
    """The `common_examples` of Rasa's JSON; synonyms, regular expressions and look-up tables are noted."""
    data = content.json["rasa_nlu_data"]
    if not isinstance(data, dict) or not isinstance(data.get("common_examples"), list):
        raise DatasetError(f"{content.place}: rasa_nlu_data: holds no list 'common_examples'")
    yield from _rows(data["common_examples"], f"{content.place}:common_examples", reading)
    for name in ("entity_synonyms", "regex_features", "lookup_tables"):
        if data.get(name):
            reading.notes.warn(
                content.place, f"{name}: {len(data[name])} entries are not read: students learn from text"
            )


def is_broken(content: Content) -> bool:
    """What begins as JSON, and is none."""
    return content.suffix == ".json" and content.json is None


def read_broken(content: Content, _reading: Reading) -> Iterator[Row]:
    """Raises DatasetError: where the JSON ends to be any."""
    try:
        json.loads(content.text)
    except json.JSONDecodeError as error:
        place = f"{content.place}:{error.lineno}"
        raise DatasetError(f"{place}: row: is no JSON ({error.msg} at column {error.colno})") from None
    yield from ()
