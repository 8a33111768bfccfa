"""Words with a tag each: CoNLL files, and the three files `seq.in`, `seq.out` and `label` of ATIS and SNIPS."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from training.data.formats.base import Content, Draft, Reading, Row
from training.data.tags import slots_of_tags, spans_of
from training.data.utterances import DatasetError, RecordError

_TAG = re.compile(r"O|NoLabel|[BIESLU]-\S.*")
_COMMENT = re.compile(r"#\s*(?P<name>text|intent|domain|id|locale)\s*[:=]\s*(?P<value>.*?)\s*$")
_PROBE = 50  # lines that detection looks at


def is_sequences(content: Content) -> bool:
    """`seq.in`, with the two other files beside it, or one of those."""
    return content.name in ("seq.in", "seq.out") or (content.name == "label" and content.sibling("seq.in") is not None)


def read_sequences(content: Content, reading: Reading) -> Iterator[Row]:
    """One utterance a line of `seq.in`, its tags in `seq.out`, its intent in `label`.

    Raises DatasetError: a file is missing, or has another number of lines.
    """
    if content.name != "seq.in":
        if content.sibling("seq.in") is None:
            raise DatasetError(f"{content.place}: there is no seq.in beside it")
        return
    content.note_encoding(reading.notes)
    lines = _trimmed(content.lines)
    tags = _beside(content, "seq.out", len(lines))
    labels = _beside(content, "label", len(lines))
    if tags is None:
        reading.notes.warn(content.place, "there is no seq.out beside it: read without slots")
    if labels is None:
        reading.notes.warn(content.place, "there is no label beside it: read without intents")
    for number, line in enumerate(lines):
        place = f"{content.place}:{number + 1}"
        text = line.strip()
        try:
            slots = None if tags is None else slots_of_tags(text, tags[number].split(), "seq.out")
            yield place, Draft(text, labels[number].strip() or None if labels else None, slots)
        except RecordError as error:
            yield place, error


def _trimmed(lines: Sequence[str]) -> list[str]:
    """The lines without empty ones at the end."""
    count = len(lines)
    while count and not lines[count - 1].strip():
        count -= 1
    return list(lines[:count])


def _beside(content: Content, name: str, count: int) -> list[str] | None:
    found = content.sibling(name)
    if found is None:
        return None
    lines = _trimmed(found.lines)
    if len(lines) != count:
        raise DatasetError(f"{found.place}: has {len(lines)} lines; allowed: {count}, as many as seq.in")
    return lines


def is_conll(content: Content) -> bool:
    """Lines of a word and a tag, the tag last."""
    lines = [line for line in content.lines[:_PROBE] if line.strip() and not line.startswith(("#", "-DOCSTART-"))]
    cells = [_cells(line) for line in lines]
    return bool(cells) and all(len(row) >= 2 and _TAG.fullmatch(row[-1]) for row in cells)


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def read_conll(content: Content, reading: Reading) -> Iterator[Row]:
    """Sentences between empty lines; ``# text``, ``# intent``, ``# domain`` and ``# id`` are read where they stand.

    A column between word and tag that has one value in each sentence is the intent. Words are joined by spaces where
    there is no ``# text``.
    """
    content.note_encoding(reading.notes)
    rows: list[list[str]] = []
    about: dict[str, str] = {}
    first = 1
    for number, line in enumerate([*content.lines, ""], 1):
        if line.strip():
            comment = _COMMENT.match(line)
            if not rows and not about:
                first = number
            if comment:
                about[comment["name"]] = comment["value"]
            elif not line.startswith(("# ", "-DOCSTART-")):
                rows.append(_cells(line))
        elif rows:
            yield _sentence(rows, about, f"{content.place}:{first}")
            rows, about = [], {}


def _sentence(rows: list[list[str]], about: dict[str, str], place: str) -> Row:
    try:
        if any(len(row) < 2 for row in rows):
            raise RecordError("row", "a line has no tag; allowed: a word and a tag, the tag last")
        rows = [row[1:] if len(row) > 2 and row[0].isdecimal() else row for row in rows]
        words, tags = [row[0] for row in rows], [row[-1] for row in rows]
        between = {row[-2] for row in rows if len(row) > 2}
        text = about.get("text") or " ".join(words)
        if not _holds(text, words):
            text = " ".join(words)
        intent = about.get("intent") or (between.pop() if len(between) == 1 else None)
        slots = slots_of_tags(text, tags, "tags", words)
        about = {name: value for name, value in about.items() if name in ("domain", "id", "locale")}
        return place, Draft(text, intent, slots, **about)
    except RecordError as error:
        return place, error


def _holds(text: str, words: Sequence[str]) -> bool:
    try:
        return bool(spans_of(text, words, "text"))
    except RecordError:
        return False
