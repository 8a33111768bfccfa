"""Read labelled data: MASSIVE (folder, tarball or hub), the project's JSONL, CSV.

A source is named by one string: a folder that holds ``1.1/data/``, ``data/`` or the files themselves; the official
``amazon-massive-dataset-1.1.tar.gz``; one ``.jsonl``, ``.jsonl.gz`` or ``.csv`` file; or ``hub:OWNER/NAME[@REVISION]``,
a Hugging Face data set with MASSIVE's columns, through `datasets`.

Fields of a JSONL row: ``id, text, locale, partition, domain, intent, slots[{name, start, end}]``, or MASSIVE's
``id, utt, annot_utt, locale, partition, scenario, intent``. CSV columns: ``id, locale, partition, domain, intent`` and
``annotation`` (text with ``[slot : value]`` marks) or ``text`` (no slots).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

from training.data import annotation
from training.data.utterances import PARTITIONS, Partition, RecordError, Slot, Utterance

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
HUB_PREFIX = "hub:"
SAMPLE = Path(__file__).parents[1] / "sample"  # the project's own small set, in MASSIVE's layout
_Row = tuple[str, Mapping[str, Any] | str]  # its place, and its fields or what is wrong with it
_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv")
_PARTITION_OF_SPLIT: dict[str, Partition] = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}


class DatasetError(ValueError):
    """A data set that can't be used; the message names file, line and field, what was found and what is allowed."""


@dataclass(frozen=True)
class Dataset:
    """Utterances of a source, by partition, and how many bad rows were skipped.

    `places` says where each utterance stands: file and line.
    """

    source: str
    utterances: tuple[Utterance, ...]
    skipped: int = 0
    places: tuple[str, ...] = field(default=(), repr=False)

    def part(self, partition: Partition, locales: Sequence[str] | None = None) -> list[Utterance]:
        """The utterances of one partition (and of the given locales), in order of the source.

        Raises DatasetError: there are none, for the partition or for one of the locales.
        """
        chosen = [u for u in self.utterances if u.partition == partition and (locales is None or u.locale in locales)]
        counts = Counter(u.locale for u in chosen)
        missing = sorted(set(locales or ()) - set(counts))
        if not chosen or missing:
            sizes = dict(Counter(u.partition for u in self.utterances))
            of = f" for {', '.join(missing)}" if missing else ""
            raise DatasetError(f"{self.source}: partition {partition!r} is empty{of}; the source holds {sizes}")
        return chosen


def load(source: str, locales: Sequence[str] | None = None, on_error: OnError = "raise") -> Dataset:
    """Read a source (see the module's docstring), restricted to some locales.

    Labels of dev or test that never occur in train are logged as warnings: no student can learn them. Raises
    DatasetError: no such source, no row, an unknown locale, an id twice in a locale, or (unless `on_error` is "skip") a
    bad row.
    """
    hub = source.startswith(HUB_PREFIX)
    rows = _hub_rows(source.removeprefix(HUB_PREFIX), locales) if hub else _file_rows(Path(source), locales)
    places: dict[tuple[str, str], str] = {}  # of utterances, by locale and id
    utterances: list[Utterance] = []
    problems: list[str] = []
    for place, fields in rows:
        try:
            if isinstance(fields, str):
                raise RecordError("row", fields)
            utterance = utterance_of(fields)
            if locales is not None and utterance.locale not in locales:
                continue
            first = places.setdefault((utterance.locale, utterance.id), place)
            if first != place:
                raise RecordError("id", f"{utterance.id!r} occurs twice for {utterance.locale}, first at {first}")
            utterances.append(utterance)
        except RecordError as error:
            problems.append(f"{place}: {error}")
            if on_error == "raise":
                raise DatasetError(problems[0]) from error
    found = sorted({u.locale for u in utterances})
    if missing := sorted(set(locales or ()) - set(found)):
        present = ", ".join(found) or "none"
        raise DatasetError(f"{source}: no utterances for {', '.join(missing)}; the source holds {present} of those")
    if not utterances:
        raise DatasetError(f"{source}: holds no utterances")
    if problems:
        log.warning("%s: skipped %d bad rows, the first: %s", source, len(problems), problems[0])
    _warn_of_unseen_labels(source, utterances)
    where = tuple(places[u.locale, u.id] for u in utterances)
    return Dataset(source, tuple(utterances), len(problems), where)


def utterance_of(row: Mapping[str, Any]) -> Utterance:
    """One row, in MASSIVE's or the project's fields, as a record.

    Raises RecordError: a field missing, of the wrong type, or inconsistent.
    """
    slots: tuple[Slot, ...]
    if "utt" in row:
        text = _text(row, "utt")
        slots = annotation.align(text, _text(row, "annot_utt"))
    elif row.get("annotation"):
        text, slots = annotation.parse(_text(row, "annotation"))
    elif "text" in row:
        text, slots = _text(row, "text"), _slots(row.get("slots") or ())
    else:
        names = ", ".join(sorted(row)) or "(none)"
        raise RecordError("row", f"has the fields {names}; allowed: with 'text', 'annotation' or 'utt'")
    return Utterance(
        partition=cast(Partition, _text(row, "partition")),
        id=_text(row, "id"),
        text=text,
        locale=_text(row, "locale"),
        domain=_optional(row, "scenario" if "utt" in row else "domain"),
        intent=_optional(row, "intent"),
        slots=slots,
    )


def row_of(utterance: Utterance) -> dict[str, Any]:
    """The project's JSONL row of a record: the inverse of `utterance_of`."""
    names = ("id", "text", "locale", "partition", "domain", "intent")
    slots = [{"name": s.name, "start": s.start, "end": s.end} for s in utterance.slots]
    return {**{name: getattr(utterance, name) for name in names}, "slots": slots}


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and name == "id":
        value = str(value)
    if not isinstance(value, str) or not value:
        found = "is missing" if value is None else f"is {value!r}"
        raise RecordError(name, f"{found}; allowed: a non-empty string")
    return value


def _optional(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return None if value is None or value == "" else _text(row, name)


def _slots(value: Any) -> tuple[Slot, ...]:
    if not isinstance(value, list | tuple):
        raise RecordError("slots", f"is {value!r}; allowed: a list of {{name, start, end}}")
    slots = []
    for item in value:
        try:
            name, start, end = item["name"], item["start"], item["end"]
        except (TypeError, KeyError):
            raise RecordError("slots", f"holds {item!r}; allowed: {{name, start, end}}") from None
        if not isinstance(name, str) or type(start) is not int or type(end) is not int:
            raise RecordError("slots", f"holds {item!r}; allowed: name a string, start and end whole numbers")
        slots.append(Slot(name, start, end))
    return tuple(slots)


def _file_rows(path: Path, locales: Sequence[str] | None) -> Iterator[_Row]:
    if path.is_dir():
        for folder in (path / "1.1" / "data", path / "data", path):
            files = sorted(f for f in folder.glob("*") if f.name.endswith(_SUFFIXES)) if folder.is_dir() else []
            if files:
                break
        else:
            names = ", ".join("*" + s for s in _SUFFIXES)
            raise DatasetError(f"{path}: holds no data; allowed: {names} in it, data/ or 1.1/data/")
        named = [f for f in files if f.name.split(".")[0] in (locales or ())]
        # where files are named by locale, those of other locales are not read
        for file in named if named and len(named) == len(set(locales or ())) else files:
            yield from _rows_of(file.name, str(file), file.open("rb"))
    elif path.name.endswith((".tar.gz", ".tgz", ".tar")) and path.is_file():
        yield from _tar_rows(path, locales)
    elif path.name.endswith(_SUFFIXES) and path.is_file():
        yield from _rows_of(path.name, str(path), path.open("rb"))
    else:
        kinds = f"a folder, a .tar.gz, {', '.join(_SUFFIXES)} or {HUB_PREFIX}OWNER/NAME"
        raise DatasetError(f"{path}: no such data; allowed: {kinds}")


def _tar_rows(path: Path, locales: Sequence[str] | None) -> Iterator[_Row]:
    if not tarfile.is_tarfile(path):
        raise DatasetError(f"{path}: is no complete tar archive")
    with tarfile.open(path) as archive:
        members = [m for m in archive if m.isfile() and m.name.endswith(_SUFFIXES) and Path(m.name).name[0] != "."]
        if not members:
            raise DatasetError(f"{path}: the archive holds no {' or '.join(_SUFFIXES)}")
        for member in members:
            name = Path(member.name).name
            if locales is not None and len(members) > 1 and name.split(".")[0] not in locales:
                continue
            if (stream := archive.extractfile(member)) is not None:
                yield from _rows_of(name, f"{path}!{member.name}", stream)


def _rows_of(name: str, where: str, raw: IO[bytes]) -> Iterator[_Row]:
    with ExitStack() as stack:
        binary = stack.enter_context(raw)
        if name.endswith(".gz"):
            binary = cast(IO[bytes], stack.enter_context(gzip.open(raw)))
        read = _csv_rows if name.endswith(".csv") else _jsonl_rows
        newline = "" if name.endswith(".csv") else None
        stream = stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8-sig", newline=newline))
        try:
            yield from read(stream, where)
        except UnicodeDecodeError as error:
            raise DatasetError(f"{where}: is not UTF-8 ({error.reason} at byte {error.start} of a block)") from error
        except (gzip.BadGzipFile, zlib.error, tarfile.TarError, EOFError) as error:
            raise DatasetError(f"{where}: is no complete gzip file ({error})") from error


def _jsonl_rows(stream: io.TextIOWrapper, where: str) -> Iterator[_Row]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            problem = f"is a JSON {type(fields).__name__}"
        except json.JSONDecodeError as error:
            fields, problem = None, f"is no JSON ({error.msg} at column {error.colno})"
        yield f"{where}:{number}", fields if isinstance(fields, dict) else f"{problem}; allowed: one JSON object a line"


def _csv_rows(stream: io.TextIOWrapper, where: str) -> Iterator[_Row]:
    reader = csv.DictReader(stream, restkey="(surplus)")
    for fields in reader:
        cells = f"has more cells than the header's {len(reader.fieldnames or ())}; quote cells that hold commas"
        yield f"{where}:{reader.line_num}", cells if "(surplus)" in fields else fields


def _hub_rows(name: str, locales: Sequence[str] | None) -> Iterator[_Row]:
    try:
        import datasets
    except ImportError as error:
        raise DatasetError("hub data sets need the extra: pip install 'distilled-nlu[training]'") from error
    name, _, revision = name.partition("@")
    local = Path(name).exists()
    for config in (None,) if local or not locales else locales:
        try:
            splits = datasets.load_dataset(name, config, revision=revision or None)
        except Exception as error:  # the library raises a family of unrelated types
            raise DatasetError(f"{HUB_PREFIX}{name}: cannot be loaded: {type(error).__name__}: {error}") from error
        for split, part in splits.items():
            names = {c: f.int2str for c, f in part.features.items() if isinstance(f, datasets.ClassLabel)}
            for number, row in enumerate(part):
                fields = {c: names[c](v) if c in names and v is not None else v for c, v in row.items()}
                fields["partition"] = _PARTITION_OF_SPLIT.get(str(split), str(split))
                yield f"{HUB_PREFIX}{name}[{split}]:{number}", fields


def _warn_of_unseen_labels(source: str, utterances: Sequence[Utterance]) -> None:
    found: dict[Partition, set[tuple[str, str]]] = {partition: set() for partition in PARTITIONS}
    for u in utterances:
        named = (("domain", u.domain), ("intent", u.intent), *(("slot", s.name) for s in u.slots))
        found[u.partition] |= {(kind, name) for kind, name in named if name is not None}
    for partition in PARTITIONS[1:] if found["train"] else ():
        for kind, name in sorted(found[partition] - found["train"]):
            unseen = "%s: %s %r occurs in %s but never in train: no student can learn it"
            log.warning(unseen, source, kind, name, partition)
