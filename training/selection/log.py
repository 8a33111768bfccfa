"""The texts of a user's log: lines of plain text, or rows of any format of labelled data."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from training.check.texts import key_of, language_of
from training.data import datasets
from training.data.completion import Records
from training.data.formats.base import Draft, Reading, ReadOptions
from training.data.formats.registry import format_of
from training.data.formats.writers import WRITERS
from training.data.utterances import DatasetError, RecordError, Utterance

LINES = (".txt", ".log")  # endings of files that hold a text a line

# The format to write, by the one that was read; of others JSONL
_WRITTEN = {
    **{name: name for name in WRITERS},
    "rasa-markdown": "rasa",
    "rasa-json": "rasa",
    "luis": "clu",
}


class Candidates(NamedTuple):
    """Texts that may be chosen, each once; how many were repeated, and how many are labelled already."""

    texts: list[Utterance]
    repeated: int
    labelled: int


def read_log(source: str, locales: Sequence[str] | None, options: ReadOptions) -> list[Utterance]:
    """The texts of a source; labels in it are not used. Raises DatasetError: it can't be read, or has no texts."""
    if not is_lines(source, options):
        unsplit = ReadOptions(options.columns, options.offsets, options.format, 0.0, options.seed)
        return list(datasets.load(source, locales, options=unsplit).utterances)
    path, records = Path(source), Records(locales, Reading(options))
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    data = path.read_bytes()
    try:
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is no text in UTF-8, one a line ({error})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records.add(None, f"{path}:{number}", Draft(line.strip()))
            except RecordError as error:
                raise DatasetError(f"{path}:{number}: {error}") from error
    if not records.utterances:
        raise DatasetError(f"{path}: holds no texts")
    return records.utterances


def is_lines(source: str, options: ReadOptions) -> bool:
    """Whether a source holds a text a line, by its name."""
    return not options.format and source.removesuffix(".gz").endswith(LINES)


def written_format(sources: Iterable[str], options: ReadOptions) -> str:
    """The writer for the format of the first source that has one; JSONL for plain text."""
    for source in sources:
        if not is_lines(source, options) and (found := format_of(source, options)) is not None:
            return _WRITTEN.get(found, "jsonl")
    return "jsonl"


def candidates(texts: Sequence[Utterance], labelled: Sequence[Utterance]) -> Candidates:
    """The texts without copies, and without those that are labelled; case, spaces and punctuation do not count."""
    known, seen = {_key(u) for u in labelled}, set[tuple[str, str]]()
    kept, repeated, left = [], 0, 0
    for utterance in texts:
        key = _key(utterance)
        if key in known:
            left += 1
        elif key in seen:
            repeated += 1
        else:
            seen.add(key)
            kept.append(utterance)
    return Candidates(kept, repeated, left)


def _key(utterance: Utterance) -> tuple[str, str]:
    return language_of(utterance.locale), key_of(utterance.text)
