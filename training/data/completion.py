"""Drafts become utterances: what rows leave out (id, locale, partition) is completed, and checked in the same way for
every format.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import cast

from training.data.encoding import wrong_byte
from training.data.formats.base import Draft, File, Reading
from training.data.locales import language_of, locale_of_name, normalised
from training.data.splitting import dev_rows
from training.data.utterances import PARTITIONS, Partition, RecordError, Utterance

_PARTITIONS: dict[str, Partition] = {
    "training": "train",
    "validation": "dev",
    "validate": "dev",
    "valid": "dev",
    "val": "dev",
    "development": "dev",
    "testing": "test",
    **{name: name for name in PARTITIONS},
}
_IN_NAMES: dict[str, Partition] = {**_PARTITIONS, "eval": "dev", "evaluation": "dev"}


class Records:
    """The utterances of a source with their places, completed one by one.

    Where rows have no locale, it is that of the file's name, or the only one of `locales`.
    """

    def __init__(self, locales: Sequence[str] | None, reading: Reading) -> None:
        self.utterances: list[Utterance] = []
        self.places: list[str] = []
        self._locales, self._notes, self._options = locales, reading.notes, reading.options
        self._files: dict[str, tuple[str | None, Partition | None]] = {}  # locale and partition of a file's name
        self._tags: dict[str, str] = {}  # locales as written and as BCP-47 has them
        self._ids: dict[tuple[str, str], str] = {}  # the place of each id, by locale
        self._made: Counter[tuple[str, str]] = Counter()
        self._without_partition: list[int] = []

    def add(self, file: File | None, place: str, draft: Draft) -> None:
        """Complete and keep a row. Raises RecordError: a field is missing or wrong, or its id is taken."""
        _refuse_broken_characters(draft.text)
        _note_mojibake(draft.text, place, self)
        locale = self._locale(file, place, draft.locale)
        partition = self._partition(file, place, draft.partition)
        utterance = Utterance(
            id=draft.id if draft.id is not None else self._made_id(locale, draft.text, place),
            text=draft.text,
            locale=locale,
            partition=partition or "train",
            domain=draft.domain,
            intent=draft.intent,
            slots=draft.slots or (),
            slots_annotated=draft.slots is not None,
        )
        if self._locales is None or locale in self._locales:
            first = self._ids.setdefault((locale, utterance.id), place)
            if first != place:
                hint = "if ids mean nothing, make them: distilled-nlu convert --columns id="
                raise RecordError("id", f"{utterance.id!r} occurs twice for {locale}, first at {first}; {hint}")
        if partition is None:
            self._without_partition.append(len(self.utterances))
        self.utterances.append(utterance)
        self.places.append(place)

    def without_partition(self) -> tuple[str, RecordError] | None:
        """The first row that has no partition where others have one."""
        if not 0 < len(self._without_partition) < len(self.utterances):
            return None
        allowed = (
            f"allowed: {', '.join(PARTITIONS)}, a file or folder named after one, or none in any row (a split is made)"
        )
        return self.places[self._without_partition[0]], RecordError("partition", f"is missing; {allowed}")

    def drop_without_partition(self) -> int:
        """Leave out the rows that have no partition; returns how many."""
        dropped = set(self._without_partition)
        self.utterances = [u for i, u in enumerate(self.utterances) if i not in dropped]
        self.places = [place for i, place in enumerate(self.places) if i not in dropped]
        self._without_partition = []
        return len(dropped)

    @property
    def needs_split(self) -> bool:
        """Whether there are labelled training utterances and none of dev; plain text needs no dev."""
        found = {u.partition for u in self.utterances}
        if self._options.dev_share <= 0 or "dev" in found:
            return False
        return any(u.partition == "train" and (u.intent or u.domain or u.slots) for u in self.utterances)

    def split(self, source: str) -> None:
        """Make some of the training utterances dev."""
        train = [i for i, u in enumerate(self.utterances) if u.partition == "train"]
        share, seed = self._options.dev_share, self._options.seed
        chosen = [train[i] for i in sorted(dev_rows([self.utterances[i] for i in train], share, seed))]
        for i in chosen:
            self.utterances[i] = replace(self.utterances[i], partition="dev")
        why = "no row has a partition" if self._without_partition else "there is no partition dev"
        if chosen:
            made = f"{len(chosen)} of {len(train)} training utterances are dev (by id and text, stratified by intent)"
            self._notes.warn(source, f"{why}: {made}")
        else:
            self._notes.warn(source, f"{why}, and too few utterances of each intent to make one (3 are needed)")

    def _locale(self, file: File | None, place: str, written: str | None) -> str:
        if written is None:
            return self._missing_locale(file, place)
        found = self._tags.get(written)
        if found is None:
            tag = normalised(written)
            if tag is None:
                self._notes.warn(place, f"locale: {written!r} is no BCP-47 locale, such as de-DE; kept as it is")
            elif self._with_region(tag) != written:
                self._notes.warn(place, f"locale: {written!r} is read as {self._with_region(tag)}")
            found = self._tags[written] = self._with_region(tag) if tag else written
        elif found != written:
            self._notes.warn(place, f"locale: {written!r} is read as {found}")
        return found

    def _missing_locale(self, file: File | None, place: str) -> str:
        of_name = self._of_file(file)[0]
        if of_name is not None:
            of_name = self._with_region(of_name)
            self._notes.info(place, f"locale: read as {of_name}, by the file's name")
            return of_name
        if self._locales is not None and len(self._locales) == 1:
            self._notes.info(place, f"locale: read as {self._locales[0]}, the only one of --locales")
            return self._locales[0]
        how = "say it with --locales and one locale, or name the file after it (de-DE.csv)"
        raise RecordError("locale", f"is missing; allowed: a BCP-47 locale, such as de-DE; {how}")

    def _with_region(self, tag: str) -> str:
        """The one locale of that language among the asked ones, where the tag is a language alone."""
        if "-" in tag or self._locales is None or tag in self._locales:
            return tag
        found = [locale for locale in self._locales if language_of(locale) == tag]
        return found[0] if len(found) == 1 else tag

    def _partition(self, file: File | None, place: str, written: str | None) -> Partition | None:
        if written in PARTITIONS:
            return written
        if written is None:
            found = self._of_file(file)[1]
            if found is not None:
                self._notes.info(place, f"partition: read as {found}, by the file's name")
            return found
        found = _PARTITIONS.get(written.strip().lower())
        if found is not None:
            self._notes.info(place, f"partition: {written!r} is read as {found}")
        return found or cast(Partition, written)  # which the record refuses

    def _of_file(self, file: File | None) -> tuple[str | None, Partition | None]:
        if file is None:
            return None, None
        if file.place not in self._files:
            self._files[file.place] = locale_of_name(file.name), partition_of_name(file.name)
        return self._files[file.place]

    def _made_id(self, locale: str, text: str, place: str) -> str:
        """The same text has the same id wherever it stands, so that new rows change no other row's id."""
        self._made[locale, text] += 1
        number = self._made[locale, text]
        digest = blake2b(text.encode("utf-8"), digest_size=8).hexdigest()
        self._notes.info(place, "id: is missing; made from the text")
        return digest if number == 1 else f"{digest}-{number}"

    def mojibake(self, place: str, found: str, meant: str) -> None:
        """Note a text in UTF-8 that was read in another encoding before it was saved."""
        self._notes.warn(place, f"text: looks like UTF-8 that was read as Windows-1252: {found!r} for {meant!r}")


def partition_of_name(name: str) -> Partition | None:
    """The partition that a file is named after, first or last in its name, or a folder: "train.csv", "test/x.csv"."""
    path = PurePosixPath(name)
    words = re.split(r"[^a-z]+", path.name.removesuffix(".gz").rsplit(".", 1)[0].lower())
    words = [word for word in words if word]
    ends = (words[:1], words[-1:], *([part.lower()] for part in reversed(path.parts[:-1])))
    return next((_IN_NAMES[word] for part in ends for word in part if word in _IN_NAMES), None)


def _refuse_broken_characters(text: str) -> None:
    if (byte := wrong_byte(text)) is not None:
        problem = f"holds the byte {byte}, while the file is in UTF-8"
        raise RecordError("text", f"{problem}; allowed: one encoding in a file; write this row again")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}, character {error.start}"
        cut = "cut by a program that counts UTF-16 units"
        raise RecordError("text", f"holds half an emoji ({half}), {cut}; allowed: whole characters") from None


_MOJIBAKE = re.compile(r"[ÂÃâ][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u2122]")


def _note_mojibake(text: str, place: str, records: Records) -> None:
    if text.isascii() or (match := _MOJIBAKE.search(text)) is None:
        return
    found = next(word for word in text.split() if match[0] in word)
    try:
        meant = found.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return
    records.mojibake(place, found, meant)
