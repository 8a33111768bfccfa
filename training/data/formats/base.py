"""What every reader of a format takes and gives."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from training.data.encoding import UTF8, Decoded, decode
from training.data.utterances import DatasetError, RecordError, Slot

Offsets = Literal["characters", "utf16", "bytes", "inclusive"]
OFFSETS: tuple[Offsets, ...] = get_args(Offsets)


@dataclass(frozen=True)
class ReadOptions:
    """How a source is read.

    `columns` maps fields (text, intent ...) to the columns that hold them, by name or, without a header, by number from
    1. `offsets` are what the starts and ends of slots count, where the format leaves it open. `format` is the name of
    one, instead of detection. `dev_share` of the training utterances becomes dev where the data has none (0: none),
    drawn with `seed`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    offsets: Offsets = "characters"
    format: str = ""
    dev_share: float = 0.1
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """A row as read; None is what it does not say. `slots` None: not annotated."""

    text: str
    intent: str | None = None
    slots: tuple[Slot, ...] | None = None
    domain: str | None = None
    id: str | None = None
    locale: str | None = None
    partition: str | None = None


Row = tuple[str, Draft | RecordError]  # its place, and the draft or what is wrong with it


@dataclass(frozen=True)
class Note:
    """What a user should know of a source: `count` rows or files, the first at `place`."""

    level: Literal["info", "warning"]
    place: str
    message: str
    count: int = 1

    def __str__(self) -> str:
        more = f" ({self.count} times, here the first)" if self.count > 1 else ""
        return f"{self.place}: {self.message}{more}"


class Notes:
    """Collects notes; equal messages are counted, the first place is kept."""

    def __init__(self) -> None:
        self._places: dict[tuple[Literal["info", "warning"], str], str] = {}
        self._counts: Counter[tuple[Literal["info", "warning"], str]] = Counter()

    def info(self, place: str, message: str, count: int = 1) -> None:
        """Add what was done, such as which column was read as what."""
        self._add("info", place, message, count)

    def warn(self, place: str, message: str, count: int = 1) -> None:
        """Add what is probably wrong, or was left out."""
        self._add("warning", place, message, count)

    def _add(self, level: Literal["info", "warning"], place: str, message: str, count: int) -> None:
        self._places.setdefault((level, message), place)
        self._counts[level, message] += count

    def all(self) -> tuple[Note, ...]:
        """The notes in order of their first place."""
        return tuple(Note(k[0], place, k[1], self._counts[k]) for k, place in self._places.items())


@dataclass(frozen=True)
class Reading:
    """One reading of a source: its options, and the notes that are made on the way."""

    options: ReadOptions = field(default_factory=ReadOptions)
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class File:
    """A file of a source.

    `name` is its path within the source, `place` how messages name it, `load` reads it, `siblings` are all files of the
    source by name.
    """

    name: str
    place: str
    load: Callable[[], bytes]
    siblings: Mapping[str, File] = field(default_factory=dict, repr=False)

    def open(self) -> Content:
        """Read the file, unpacked if its name ends in .gz. Raises DatasetError: it is no complete gzip file."""
        data = self.load()
        if self.name.endswith(".gz"):
            try:
                data = gzip.decompress(data)
            except (OSError, zlib.error, EOFError) as error:
                raise DatasetError(f"{self.place}: is no complete gzip file ({error})") from error
        return Content(self, data)


@dataclass(frozen=True)
class Content:
    """A file that has been read. Text and JSON are decoded when they are first asked for."""

    file: File
    data: bytes = field(repr=False)

    @property
    def place(self) -> str:
        """How messages name the file."""
        return self.file.place

    @property
    def name(self) -> str:
        """The name of the file without its folder and ".gz"."""
        return PurePosixPath(self.file.name).name.removesuffix(".gz")

    @property
    def suffix(self) -> str:
        """The suffix of the name, such as ".csv", in lower case."""
        return PurePosixPath(self.name).suffix.lower()

    def sibling(self, name: str) -> Content | None:
        """Another file of the same folder, by its name, unpacked where only "NAME.gz" is there."""
        folder = PurePosixPath(self.file.name).parent
        for written in (name, f"{name}.gz"):
            if (file := self.file.siblings.get(str(folder / written))) is not None:
                return file.open()
        return None

    def beside(self, suffixes: tuple[str, ...]) -> Iterator[Content]:
        """The other files of the folder with one of the suffixes, in order of their names."""
        folder = PurePosixPath(self.file.name).parent
        for name, file in sorted(self.file.siblings.items()):
            if name != self.file.name and PurePosixPath(name).parent == folder and name.endswith(suffixes):
                yield file.open()

    @cached_property
    def decoded(self) -> Decoded:
        """Text and encoding. Raises DatasetError: the bytes fit no encoding."""
        return decode(self.data, self.place)

    @property
    def text(self) -> str:
        """The text as it stands in the file."""
        return self.decoded.text

    @cached_property
    def lines(self) -> list[str]:
        """The lines without their ends; a carriage return ends a line, too."""
        return self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

    @cached_property
    def json(self) -> Any:
        """The whole file as one JSON value; None where it is none."""
        if self.text.lstrip("\ufeff \t\r\n")[:1] not in ("{", "["):
            return None
        try:
            return json.loads(self.text)
        except (json.JSONDecodeError, RecursionError):
            return None

    def note_encoding(self, notes: Notes) -> None:
        """Say which encoding was found, unless it is plain UTF-8."""
        if self.decoded.guessed:
            notes.warn(self.place, f"is not UTF-8; read as {self.decoded.encoding}: check the letters with accents")
        elif self.decoded.encoding != UTF8:
            notes.info(self.place, f"read as {self.decoded.encoding}")


@dataclass(frozen=True)
class Format:
    """A format: how it is detected by content, and read.

    `read` yields rows with their places; it raises DatasetError where nothing of the file can be read.
    """

    name: str
    title: str
    detect: Callable[[Content], bool]
    read: Callable[[Content, Reading], Iterator[Row]]
