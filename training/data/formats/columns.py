"""Which column of a file holds which field: the names that people use, and `--columns`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from training.data.formats.base import Notes
from training.data.utterances import DatasetError

# The names of each field, the first before the others. Case, outer spaces, and "-" or " " for "_" do not matter.
NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("utt", "text", "utterance", "sentence", "query", "message", "question", "phrase", "example"),
    "annotation": ("annotation", "annot_utt", "annotated", "annotated_text", "annotated_utterance"),
    "intent": ("intent", "label", "intent_name", "intent_label", "class", "category"),
    "domain": ("domain", "scenario"),
    "slots": ("slots", "entities", "tags", "ner_tags", "bio_tags"),
    "id": ("id", "utterance_id"),
    "locale": ("locale", "language", "lang", "culture"),
    "partition": ("partition", "split", "set"),
    "tokens": ("tokens", "words"),
}
FIELDS = tuple(NAMES)
_COMMAND = "distilled-nlu convert --columns"
_UNUSED = frozenset(("worker_id", "slot_method", "judgments"))  # MASSIVE's, known to hold no label
_TAGS = ("tags", "ner_tags", "bio_tags")
_FIELD_OF = {name: field for field, names in NAMES.items() for name in names}


def parse_columns(text: str) -> dict[str, str]:
    """The value of --columns: "text=utt,intent=label"; "slots=" is no column.

    Raises ValueError: another form, or an unknown field.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        field, equals, column = (side.strip() for side in part.partition("="))
        if not equals or field not in FIELDS:
            allowed = f"allowed: FIELD=COLUMN, or FIELD= for none; fields: {', '.join(FIELDS)}"
            raise ValueError(f"{part!r}; {allowed}")
        found[field] = column
    return found


@dataclass(frozen=True)
class ColumnMap:
    """The columns of the fields; a field that no column holds is absent."""

    of: Mapping[str, str]

    def __contains__(self, field: str) -> bool:
        return field in self.of


def plain(name: str) -> str:
    """A column's name as it is compared."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def map_columns(names: Sequence[str], chosen: Mapping[str, str], place: str, notes: Notes) -> ColumnMap:
    """Find the column of each field among the names; `chosen` are those of --columns.

    Notes say which columns were read under another name, and which are not used. Raises DatasetError: a chosen column
    is not there.
    """
    found: dict[str, str] = {}
    for field, column in chosen.items():
        if column and column not in names:
            match = next((name for name in names if name.strip() == column), None)
            if match is None:
                present = ", ".join(map(repr, names))
                raise DatasetError(f"{place}: columns: {field}={column}: there is no such column; found: {present}")
            column = match
        found[field] = column
    taken = set(found.values())
    has_tokens = any(plain(name) in NAMES["tokens"] for name in names)
    for field, known in NAMES.items():
        candidates = [name for name in names if name not in taken and plain(name) in known]
        if field == "slots" and not has_tokens:  # "tags" may be anything
            candidates = [name for name in candidates if plain(name) not in _TAGS]
        if field not in found and candidates:
            found[field] = min(candidates, key=lambda name: (known.index(plain(name)), name != plain(name)))
            taken.add(found[field])
    found = {field: column for field, column in found.items() if column}
    if {"text", "annotation", "tokens"} & found.keys():  # else the row is refused with its names
        _note(names, found, {field for field, column in chosen.items() if not column}, place, notes)
    return ColumnMap(found)


_OURS = frozenset((("text", "utt"), ("annotation", "annot_utt"), ("domain", "scenario")))  # as MASSIVE names them


def _note(names: Sequence[str], found: Mapping[str, str], unwanted: set[str], place: str, notes: Notes) -> None:
    renamed = [(f, c) for f, c in found.items() if c != f and not ("annot_utt" in names and (f, c) in _OURS)]
    if renamed:
        shown = ", ".join(f"{column!r} as {field}" for field, column in renamed)
        notes.info(place, f"columns read under another name: {shown}")
    for name in names:
        if name in found.values() or name in _UNUSED:
            continue
        field = _FIELD_OF.get(plain(name)) or next(
            (_FIELD_OF[match] for match in get_close_matches(plain(name), _FIELD_OF, 1, 0.8)), None
        )
        if field is None or field in unwanted:
            notes.info(place, f"column {name!r} is not used")
        elif field in found:
            notes.warn(
                place, f"column {name!r} is not used: {field} is read from {found[field]!r} ({_COMMAND} {field}={name})"
            )
        else:
            notes.warn(place, f"column {name!r} is not used; if it is {field}: {_COMMAND} {field}={name}")
