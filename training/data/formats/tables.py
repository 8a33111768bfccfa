"""CSV, TSV and other tables of text with a separator."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple

from training.data.formats.base import Content, Reading, Row
from training.data.formats.columns import NAMES, plain
from training.data.formats.rows import RowReader
from training.data.utterances import DatasetError, RecordError

if TYPE_CHECKING:
    import _csv

SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_TEXT = frozenset((*NAMES["text"], *NAMES["annotation"], *NAMES["tokens"]))
_KNOWN = frozenset(name for names in NAMES.values() for name in names)


class Dialect(NamedTuple):
    """How cells are separated and quoted; `literal`: quotation marks mean nothing."""

    separator: str
    literal: bool = False
    backslash: bool = False

    def reader(self, lines: Iterable[str], skip_space: bool = False) -> _csv.Reader:
        """A strict reader of the lines; raises csv.Error."""
        return csv.reader(
            lines,
            delimiter=self.separator,
            quoting=csv.QUOTE_NONE if self.literal else csv.QUOTE_MINIMAL,
            doublequote=not self.backslash,
            escapechar="\\" if self.backslash else None,
            skipinitialspace=skip_space,
            strict=True,
        )


def is_table(content: Content) -> bool:
    """A file that is named as a table, or a first line with a separator and the name of a column of text."""
    if content.suffix in (".csv", ".tsv"):
        return True
    first = next((line for line in content.lines if line.strip()), "")
    return any(_TEXT & set(map(plain, first.split(separator))) for separator in SEPARATORS if separator in first)


def read_table(content: Content, reading: Reading) -> Iterator[Row]:
    """The rows of a table, each with the number of its first line.

    A row that quotation marks make go on over lines that look like rows is refused, and reading goes on after its first
    line. Raises DatasetError: no column holds text, or a column stands twice.
    """
    lines = list(io.StringIO(content.text, newline=""))
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return
    declared = lines[first].rstrip("\r\n")
    is_declared = declared.lower().startswith("sep=") and len(declared) == 5  # by Excel
    first += is_declared
    dialect = _dialect(lines[first:], declared[4:] if is_declared else "", content.suffix == ".tsv", reading)
    rows = RowReader(content.place, reading)
    header, first = _header(lines, first, dialect, rows, f"{content.place}:{first + 1}", reading)
    content.note_encoding(reading.notes)
    if dialect.separator != ",":
        reading.notes.info(
            content.place, f"cells are separated by {SEPARATORS.get(dialect.separator, dialect.separator)}"
        )
    if dialect.literal:
        reading.notes.info(content.place, "quotation marks are read as text: they do not come in pairs")
    skip_space = any(name != name.lstrip() for name in header[1:])
    names = [name.strip() for name in header]
    for number, cells, problem in _cells(lines, first, dialect, len(names), skip_space):
        place = f"{content.place}:{number}"
        if problem:
            yield place, RecordError("row", problem)
            continue
        if len(cells) < len(names):
            reading.notes.warn(place, f"the row has fewer cells than the header's {len(names)}; the last are empty")
        try:
            cells += [""] * (len(names) - len(cells))
            yield place, rows.draft(dict(zip(names, cells, strict=True)), place)
        except RecordError as error:
            yield place, error


def _dialect(lines: Sequence[str], declared: str, is_tsv: bool, reading: Reading) -> Dialect:
    """Separator and quoting: the separator that yields the most known column names, then the most cells."""
    chosen = {plain(name) for name in reading.options.columns.values()} | _KNOWN

    def worth(separator: str) -> tuple[int, bool, int]:
        try:
            cells = next(Dialect(separator).reader(lines[:1]))
        except (csv.Error, StopIteration):
            return 0, False, 0
        return sum(plain(cell) in chosen for cell in cells), is_tsv and separator == "\t", len(cells)

    separator = declared or max(SEPARATORS, key=worth)
    text = "".join(lines)
    literal = separator == "\t" and any(line.count('"') % 2 for line in lines)
    return Dialect(separator, literal, backslash='\\"' in text and '""' not in text)


def _header(
    lines: Sequence[str], first: int, dialect: Dialect, rows: RowReader, place: str, reading: Reading
) -> tuple[list[str], int]:
    """The names of the columns and the index of the first row: without a header, the names are numbers from 1."""
    try:
        header = next(dialect.reader(lines[first : first + 1]))
    except csv.Error as error:
        raise DatasetError(f"{place}: header: cannot be read ({error})") from None
    numbers = [column for column in reading.options.columns.values() if column]
    if numbers and all(column.isdecimal() for column in numbers):
        return [str(i) for i in range(1, len(header) + 1)], first
    names = [name.strip() for name in header]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DatasetError(f"{place}: header: column {twice!r} stands twice; allowed: each name once")
    columns = rows.columns(names)
    if not any(field in columns for field in ("text", "annotation", "tokens")):
        found = ", ".join(repr(shorten(name, 40)) for name in names)
        known = ", ".join((*NAMES["text"], *NAMES["annotation"]))
        how = "say which does: distilled-nlu convert --columns text=NAME, or by number (no header): text=1,intent=2"
        raise DatasetError(
            f"{place}: header: no column is known to hold the text; found: {found}; known: {known}; {how}"
        )
    return header, first + 1


def _cells(
    lines: Sequence[str], first: int, dialect: Dialect, width: int, skip_space: bool
) -> Iterator[tuple[int, list[str], str]]:
    """(number of its first line, cells, what is wrong) of each row."""
    base = start = first  # of the reader's lines, and of the next row
    reader = dialect.reader(islice(lines, base, None), skip_space)
    while True:
        problem = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], f"{error}; {_quotes(lines[start], dialect)}"
        end = base + reader.line_num
        if not problem and _looks_swallowed(lines[start + 1 : end - 1], dialect.separator, width):
            problem = (
                f"a cell goes on until line {end}, over lines that look like rows; {_quotes(lines[start], dialect)}"
            )
        if problem:
            yield start + 1, [], problem
            base = start = start + 1
            reader = dialect.reader(islice(lines, base, None), skip_space)
            continue
        if len(cells) > width:
            separator = "commas" if dialect.separator == "," else SEPARATORS.get(dialect.separator, dialect.separator)
            problem = f"has more cells than the header's {width}; quote cells that hold {separator}"
        if cells:
            yield start + 1, cells, problem
        start = end


def _looks_swallowed(inner: Sequence[str], separator: str, width: int) -> bool:
    """Whether the lines within a cell each have as many separators as a row."""
    return bool(inner) and width > 1 and all(line.count(separator) == width - 1 for line in inner)


def _quotes(line: str, dialect: Dialect) -> str:
    column = next((i for i, cell in enumerate(line.split(dialect.separator), 1) if cell.lstrip().startswith('"')), None)
    where = f"the quotation mark that opens cell {column} is not closed" if column else "a quotation mark is not closed"
    return f'{where}; allowed: "a cell", with "" for a quotation mark in it'
