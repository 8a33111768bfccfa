"""Read labelled data of any known format into utterances.

A source is named by one string: a file, a folder, an archive (tar or zip), or ``hub:OWNER/NAME[@REVISION]``, a Hugging
Face data set, through `datasets`. The format is detected by content: `training.data.formats.registry` has them by name,
`docs/data.md` describes them.

Fields of a JSONL row: ``id, text, locale, partition, domain, intent, slots[{name, start, end}]``, or MASSIVE's
``id, utt, annot_utt, locale, partition, scenario, intent``. Only the text is required: ids are made, the locale may be
that of the file's name, and where there is no dev, a split is made.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from training.data.completion import Records
from training.data.findings import note_findings
from training.data.formats.base import Note, Offsets, Reading, ReadOptions
from training.data.formats.hub import HUB_PREFIX
from training.data.formats.registry import rows_of
from training.data.formats.rows import RowReader
from training.data.formats.writers import row_of
from training.data.utterances import DatasetError, Partition, RecordError, Utterance

__all__ = [
    "HUB_PREFIX",
    "SAMPLE",
    "Dataset",
    "DatasetError",
    "Offsets",
    "OnError",
    "ReadOptions",
    "load",
    "row_of",
    "utterance_of",
]

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
_ROWS = RowReader("row", Reading())
SAMPLE = Path(__file__).parents[1] / "sample"  # the project's own small set, in MASSIVE's layout


@dataclass(frozen=True)
class Dataset:
    """Utterances of a source, by partition, and how many bad rows were skipped.

    `places` says where each utterance stands (file and line), `notes` what was found on the way.
    """

    source: str
    utterances: tuple[Utterance, ...]
    skipped: int = 0
    places: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[Note, ...] = field(default=(), repr=False)

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
            how = {"dev": "; one is made where an intent has 3 training utterances", "test": "; score dev instead"}
            said = f"partition {partition!r} is empty{of}; the source holds {sizes}{how.get(partition, '')}"
            raise DatasetError(f"{self.source}: {said}")
        return chosen


def load(
    source: str,
    locales: Sequence[str] | None = None,
    on_error: OnError = "raise",
    options: ReadOptions | None = None,
) -> Dataset:
    """Read a source (see the module's docstring), restricted to some locales.

    What was read under another name, completed, left out, or is probably wrong is logged, and stands in the notes.
    Raises DatasetError: no such source, no row, an unknown locale, an id twice in a locale, or (unless `on_error` is
    "skip") a bad row.
    """
    reading = Reading(options or ReadOptions())
    records, problems = _read(source, locales, on_error, reading)
    if records.needs_split:
        if locales is not None and not source.startswith(HUB_PREFIX):
            reading = Reading(reading.options)  # again with the files of all locales, which have one split
            records, problems = _read(source, None, on_error, reading, locales)
        if records.needs_split:
            records.split(source)
    kept = [i for i, u in enumerate(records.utterances) if locales is None or u.locale in locales]
    utterances, places = [records.utterances[i] for i in kept], [records.places[i] for i in kept]
    _check_locales(source, locales, utterances, {u.locale for u in records.utterances})
    note_findings(source, places, utterances, reading.notes)
    if problems:
        reading.notes.warn(source, f"skipped {len(problems)} bad rows, the first: {problems[0]}")
    for note in reading.notes.all():
        log.log(logging.WARNING if note.level == "warning" else logging.INFO, "%s", note)
    return Dataset(source, tuple(utterances), len(problems), tuple(places), reading.notes.all())


def _read(
    source: str,
    locales: Sequence[str] | None,
    on_error: OnError,
    reading: Reading,
    named: Sequence[str] | None = None,
) -> tuple[Records, list[str]]:
    """All rows of the files for the locales, and the problems of those that are skipped."""
    records = Records(locales if named is None else named, reading)
    problems: list[str] = []
    for file, (place, draft) in rows_of(source, locales, reading):
        try:
            if isinstance(draft, RecordError):
                raise draft
            records.add(file, place, draft)
        except RecordError as error:
            problems.append(f"{place}: {error}")
            if on_error == "raise":
                raise DatasetError(problems[0]) from error
    if (incomplete := records.without_partition()) is not None:
        problem = ": ".join(map(str, incomplete))
        if on_error == "raise":
            raise DatasetError(problem)
        problems += [problem] * records.drop_without_partition()
    return records, problems


def _check_locales(
    source: str, locales: Sequence[str] | None, utterances: Sequence[Utterance], present: set[str]
) -> None:
    """Raises DatasetError: a locale has no utterances, or there are none at all."""
    found = {u.locale for u in utterances}
    if missing := sorted(set(locales or ()) - found):
        shown = ", ".join(sorted(found)) or "none"
        others = f" (and {', '.join(sorted(present - found))})" if present - found else ""
        raise DatasetError(
            f"{source}: no utterances for {', '.join(missing)}; the source holds {shown} of those{others}"
        )
    if not utterances:
        raise DatasetError(f"{source}: holds no utterances")


def utterance_of(row: Mapping[str, Any]) -> Utterance:
    """One complete row, in MASSIVE's or the project's fields, as a record.

    Raises RecordError: a field missing, of the wrong type, or inconsistent.
    """
    draft = _ROWS.draft(row, "row")
    for name in ("partition", "id", "locale"):
        if getattr(draft, name) is None:
            raise RecordError(name, "is missing; allowed: a non-empty string")
    return Utterance(
        id=str(draft.id),
        text=draft.text,
        locale=str(draft.locale),
        partition=cast(Partition, draft.partition),
        domain=draft.domain,
        intent=draft.intent,
        slots=draft.slots or (),
        slots_annotated=draft.slots is not None,
    )
