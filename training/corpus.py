"""Plain text, one sentence a line, read as a stream."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

_SUFFIXES = (".txt", ".txt.gz")


class CorpusError(ValueError):
    """Text that can't be read; the message names the file and what is allowed."""


def find_files(sources: Sequence[str]) -> list[Path]:
    """The text files that `sources` name: files, or folders searched through, in order of name.

    Raises:
        CorpusError: a source does not exist or holds no text file.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        found = sorted(f for f in path.rglob("*") if f.name.endswith(_SUFFIXES)) if path.is_dir() else [path]
        if not found or not all(f.is_file() and f.name.endswith(_SUFFIXES) for f in found):
            raise CorpusError(f"{source}: no text there; allowed: {' or '.join(_SUFFIXES)} files, or folders of them")
        files += found
    return files


def read_lines(sources: Sequence[str]) -> Iterator[str]:
    """The lines of `sources` that are not blank, one at a time.

    Raises:
        CorpusError: a source does not exist, or a file is not UTF-8 or no complete gzip file.
    """
    for file in find_files(sources):
        try:
            with (
                gzip.open(file, "rt", encoding="utf-8")
                if file.suffix == ".gz"
                else file.open(encoding="utf-8") as stream
            ):
                for line in stream:
                    if text := line.strip():
                        yield text
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise CorpusError(f"{file}: cannot be read: {error}") from error
