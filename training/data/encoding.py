"""The encoding of a text file: UTF-8, UTF-16 and UTF-32 with a byte-order mark, UTF-16 without one, Windows-1252."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from training.data.utterances import DatasetError

UTF8 = "UTF-8"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte-order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_ALLOWED = "allowed: UTF-8, UTF-16 or UTF-32 with a byte-order mark, Windows-1252"


_MARK_BYTES = "distilled-nlu.mark-bytes"  # a handler of errors
_FIRST_MARK = 0x10FF00  # for private use: these code points stand for bytes that are not UTF-8
_MARKED = re.compile("[\U0010ff80-\U0010ffff]")


class Decoded(NamedTuple):
    """A text, the name of its encoding, and whether that is a guess."""

    text: str
    encoding: str
    guessed: bool = False


def decode(data: bytes, place: str) -> Decoded:
    """The text of a file.

    Bytes that are not UTF-8 in a file that else is are kept for `wrong_byte`, so that their rows can be refused. Raises
    DatasetError: the bytes fit no encoding; the message names the line.
    """
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            return Decoded(_strictly(data, codec, name, place), name)
    if (order := _utf16_without_mark(data)) is not None:
        return Decoded(_strictly(data, order, "UTF-16", place), "UTF-16", guessed=True)
    try:
        return Decoded(data.decode("utf-8"), UTF8)
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
    lenient = data.decode("utf-8", "surrogateescape")
    wrong = sum("\udc80" <= character <= "\udcff" for character in lenient)
    right = sum(character > "\x7f" for character in lenient) - wrong
    if right > wrong:  # the file is UTF-8 but for some rows, which are refused one by one
        return Decoded(data.decode("utf-8", _MARK_BYTES), UTF8)
    try:
        return Decoded(data.decode("cp1252"), "Windows-1252", guessed=True)
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        problem = f"byte 0x{byte:02X} is neither UTF-8 nor Windows-1252"
        raise DatasetError(f"{place}:{line}: row: {problem}; {_ALLOWED}; save the file as UTF-8") from None


def _mark_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(_FIRST_MARK + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_MARK_BYTES, _mark_bytes)


def wrong_byte(text: str) -> str | None:
    """The first byte of a decoded text that was not UTF-8, such as "0xED ('í' in Windows-1252)"."""
    found = None if text.isascii() else _MARKED.search(text)
    if found is None:
        return None
    byte = ord(found[0]) - _FIRST_MARK
    return f"0x{byte:02X} ({bytes([byte]).decode('cp1252', 'replace')!r} in Windows-1252)"


def _strictly(data: bytes, codec: str, name: str, place: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(codec, "replace").count("\n") + 1
        problem = f"the file begins as {name}, but is not in it ({error.reason})"
        raise DatasetError(f"{place}:{line}: row: {problem}; {_ALLOWED}; save the file as UTF-8") from error


def _utf16_without_mark(data: bytes) -> str | None:
    """Every second byte of Latin text is zero in UTF-16."""
    head = data[:400]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) % 2 == 0 and max(even, odd) > len(head) // 4:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None
