"""Plain text, one sentence a line: read as a stream, shuffled on disk.

`training.text.transfer` builds transfer sets from it.
"""

from __future__ import annotations

import gzip
import random
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Self

from training.data.datasets import HUB_PREFIX

SUFFIXES = (".txt", ".txt.gz")
LOCALE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")  # a language or a BCP-47 tag such as de-DE

_RECORD = struct.Struct(">QI")  # key, length of the payload
_BUCKET_BITS = 7  # 128 open files at most: macOS allows 256
_SPILL_LEVELS = 3
BUFFER_BYTES = 1 << 15
_TAIL = 2048  # tokens at the end of a budget, for which lines are chosen that sum up to it exactly
_HAN_KANA = re.compile(
    "[\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
BUCKET_BYTES = 4 << 20  # a larger bucket is split before it is read into memory


class CorpusError(ValueError):
    """Text that can't be used; the message names what was wrong and what is allowed."""


def language_of(locale: str) -> str:
    """The language of a locale: "de" of "de-DE"."""
    return re.split("[-_]", locale)[0]


def located_files(text: str) -> list[tuple[str | None, str]]:
    """The locale (None without one) and path of each file of comma-separated ``[LOCALE=]FILE``.

    A ``LOCALE=`` applies to the files that follow, up to the next one: "a,de-DE=b,c" is a without a locale, b and c of
    de-DE. Raises CorpusError: a locale is followed by no file.
    """
    found: list[tuple[str | None, str]] = []
    locale: str | None = None
    for part in filter(None, (part.strip() for part in text.split(","))):
        tag, separator, file = part.partition("=")
        locale, file = (tag, file.strip()) if separator and LOCALE.fullmatch(tag) else (locale, part)
        if not file:
            raise CorpusError(f"{part}: names no file; allowed: [LOCALE=]FILE,...")
        found.append((locale, file))
    return found


def find_files(sources: Sequence[str]) -> list[Path]:
    """The text files that `sources` name: files, or folders searched through, in order of name.

    Raises CorpusError: a source does not exist or holds no text file.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        found = sorted(f for f in path.rglob("*") if f.name.endswith(SUFFIXES)) if path.is_dir() else [path]
        if not found or not all(f.is_file() and f.name.endswith(SUFFIXES) for f in found):
            raise CorpusError(f"{source}: no text there; allowed: {' or '.join(SUFFIXES)} files, or folders of them")
        files += found
    return files


def read_lines(sources: Sequence[str]) -> Iterator[str]:
    """The lines of `sources` that are not blank, one at a time.

    A source is a text file, a folder of them, or `hub:NAME` or `hub:NAME:COLUMN`: the train split of a Hugging Face
    data set (column "text" by default; with `NAME@REVISION` a branch of it), which is streamed, not downloaded first.
    Raises CorpusError: a source does not exist, or a file is not UTF-8 or no complete gzip file.
    """
    files = {source: find_files([source]) for source in sources if not source.startswith(HUB_PREFIX)}
    for source in sources:
        if source.startswith(HUB_PREFIX):
            lines = _hub_lines(source.removeprefix(HUB_PREFIX))
        else:
            lines = chain.from_iterable(map(lines_of_file, files[source]))
        for line in lines:
            if text := line.strip():
                yield text


def lines_of_file(file: Path) -> Iterator[str]:
    """All lines of a text file, blank ones too. Raises CorpusError: the file is not UTF-8 or no complete gzip file."""
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8-sig")
            if file.suffix == ".gz"
            else file.open(encoding="utf-8-sig") as stream
        ):
            yield from stream
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise CorpusError(f"{file}: cannot be read: {error}; allowed: UTF-8 text, gzipped where named .gz") from error


def sampled(lines: Iterable[str], rng: random.Random, count: int) -> list[str]:
    """`count` of the lines, each as likely as any other (Vitter 1985); all where there are no more."""
    kept: list[str] = []
    for seen, line in enumerate(lines):
        if len(kept) < count:
            kept.append(line)
        elif (place := rng.randrange(seen + 1)) < count:
            kept[place] = line
    return kept


def _hub_lines(name: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise CorpusError("hub data sets need the extra: pip install 'distilled-nlu[training]'") from error
    name, _, column = name.partition(":")
    name, _, revision = name.partition("@")
    column = column or "text"
    try:
        for row in datasets.load_dataset(name, revision=revision or None, split="train", streaming=True):
            value = row.get(column)
            if column not in row or not isinstance(value, str | None):
                columns = ", ".join(key for key, cell in row.items() if isinstance(cell, str)) or "none"
                raise CorpusError(f"{HUB_PREFIX}{name}: {column!r} is no column of text; allowed: {columns}")
            yield from (value or "").splitlines()
    except CorpusError:
        raise
    except Exception as error:  # the library raises a family of unrelated types
        raise CorpusError(f"{HUB_PREFIX}{name}: cannot be read: {type(error).__name__}: {error}") from error


def same_text(text: str) -> str:
    """The form in which lines are compared with each other: NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def same_utterance(form: str) -> str:
    """The form in which lines are compared with dev and test utterances: `same_text` without punctuation and symbols.

    Corpora write "Wie spät ist es?" where data sets of requests write "wie spät ist es".
    """
    bare = " ".join(re.sub(r"[^\w\s]+|_+", _marks_only, form).split())
    return bare or form


def _marks_only(match: re.Match[str]) -> str:
    return "".join(c if unicodedata.category(c).startswith("M") else " " for c in match[0])


def count_words(texts: Sequence[str]) -> list[int]:
    """Words between white space; each character of Han or kana is one word."""
    return [len((_HAN_KANA.sub(r" \g<0> ", text) if _HAN_KANA.search(text) else text).split()) for text in texts]


class DiskShuffle:
    """Sorts records by 64-bit keys in files; memory does not grow with their number.

    Records are spilled into bucket files by the key's leading bits. A bucket is then read and sorted in memory, or, if
    it is too large, spilled again by the bits that follow. With hashes as keys this is a shuffle. Records of one key
    are sorted by payload; `unique` keeps the first of them only.
    """

    def __init__(self, folder: Path, *, unique: bool = False, level: int = 1) -> None:
        folder.mkdir()
        self._folder, self._unique, self._level = folder, unique, level
        self._shift = 64 - level * _BUCKET_BITS
        self._streams: dict[int, IO[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close all streams; after an error ignore those that fail, as all do on a full disk."""
        for stream in self._streams.values():
            with suppress(OSError) if error else nullcontext():
                stream.close()

    def add(self, key: int, payload: bytes) -> None:
        """Add a record."""
        bucket = (key >> self._shift) & ((1 << _BUCKET_BITS) - 1)
        if bucket not in self._streams:
            self._streams[bucket] = (self._folder / f"{bucket:03}").open("wb", buffering=BUFFER_BYTES)
        write_record(self._streams[bucket], key, payload)

    def drain(self) -> Iterator[tuple[int, bytes]]:
        """All records in order, once: each bucket is deleted when it has been read."""
        for stream in self._streams.values():
            stream.close()
        for bucket in sorted(self._streams):
            file = self._folder / f"{bucket:03}"
            if file.stat().st_size > BUCKET_BYTES and self._level < _SPILL_LEVELS:
                finer = DiskShuffle(file.with_suffix(".finer"), unique=self._unique, level=self._level + 1)
                with finer:
                    for key, payload in read_records(file):
                        finer.add(key, payload)
                    file.unlink()
                    yield from finer.drain()
            else:
                records = sorted(_first_of_each(read_records(file)) if self._unique else read_records(file))
                file.unlink()
                yield from records


def _first_of_each(records: Iterable[tuple[int, bytes]]) -> Iterable[tuple[int, bytes]]:
    first: dict[int, bytes] = {}
    for key, payload in records:
        if key not in first or payload < first[key]:
            first[key] = payload
    return first.items()


def write_record(stream: IO[bytes], key: int, payload: bytes) -> None:
    """Append a record to an open file."""
    stream.write(_RECORD.pack(key, len(payload)) + payload)


def read_records(file: Path) -> Iterator[tuple[int, bytes]]:
    """The records of a file, in its order."""
    with file.open("rb") as stream:
        while header := stream.read(_RECORD.size):
            key, length = _RECORD.unpack(header)
            yield key, stream.read(length)


class Quota:
    """Selects whole lines, in order of arrival, whose tokens sum up to `tokens` exactly, if possible.

    Only the last lines are chosen, by subset sums of at most `_TAIL` tokens.
    """

    def __init__(self, tokens: int) -> None:
        self.left = tokens
        self._sums = 1  # bit n: a subset of the lines has n tokens
        self._last: dict[int, tuple[int, bytes]] = {}  # for each sum, the sum without its last line, and that line

    def offer(self, tokens: int, line: bytes) -> list[bytes]:
        """Offer a line; returns the lines selected now, which may include earlier ones."""
        if self.left > _TAIL:
            if tokens > self.left - _TAIL // 2 and tokens != self.left:
                return []
            self.left -= tokens
            return [line]
        if tokens > self.left or not self.left:
            return []
        fresh = (self._sums << tokens) & ((2 << self.left) - 1) & ~self._sums
        self._sums |= fresh
        while fresh:
            total = fresh.bit_length() - 1
            self._last[total] = total - tokens, line
            fresh ^= 1 << total
        return self.close() if (self._sums >> self.left) & 1 else []

    def close(self) -> list[bytes]:
        """End the offers; returns the lines that come closest to the rest."""
        total = self._sums.bit_length() - 1
        self.left -= total
        lines = []
        while total:
            total, line = self._last[total]
            lines.append(line)
        self._sums = 1
        return lines
