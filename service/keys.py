"""Optional API keys: a file with one key a line, several valid at once, so that keys rotate without a restart.

Memory holds the keys' sha256 digests only, and no message, log line or `repr` shows a key.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

SHORTEST_KEY = 16
MOST_BYTES = 1 << 18  # of the file, which is read between two requests
CHECK_SECONDS = 1.0
VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")

log = logging.getLogger("service")

Digests = tuple[bytes, ...]
Signature = tuple[int, int, int]


class KeysError(ValueError):
    """A key file that can't be used; the message is one sentence, names file and line, and never shows a key."""


class ApiKeys:
    """The keys that are valid now, read again when their file changes.

    The file is looked at no more than once a second, by requests themselves. A new file that can't be used is logged
    once and changes nothing: the last keys that were good stay valid.

    Usage::

        keys = ApiKeys.from_file(Path("keys"))
        keys.admits(scope["headers"])
    """

    __slots__ = ("_clock", "_complaint", "_digests", "_due", "_path", "_signature")

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._due = clock() + CHECK_SECONDS
        self._complaint = ""
        self._signature, self._digests = _read(path)

    @classmethod
    def from_file(cls, path: Path, clock: Callable[[], float] = time.monotonic) -> ApiKeys:
        """The keys in a file: one a line, blank lines and lines that begin with ``#`` left out.

        `clock` gives seconds that never go back.

        Raises:
            KeysError: the file is missing, unreadable, too large or not UTF-8, holds no key, or holds one that is too
                short or not of visible ASCII characters.
        """
        return cls(path, clock)

    def admits(self, headers: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request brings a valid key: ``authorization: Bearer KEY`` or ``x-api-key: KEY``.

        `headers` are those of an ASGI scope, with names in lower case; of a repeated one the last counts, so that a
        request can't try many keys. Never raises.
        """
        self._refresh()
        found = dict(headers)
        offered = []
        if (value := found.get(b"x-api-key")) is not None:
            offered.append(value)
        if (value := found.get(b"authorization", b""))[:7].lower() == b"bearer ":
            offered.append(value[7:])
        admitted = False
        for key in offered:
            digest = hashlib.sha256(key.strip()).digest()
            for known in self._digests:  # all of them: an early exit would tell by its time which key came close
                admitted |= hmac.compare_digest(known, digest)
        return admitted

    def __repr__(self) -> str:
        return f"ApiKeys({str(self._path)!r}, {len(self._digests)} keys)"

    def _refresh(self) -> None:
        now = self._clock()
        if now < self._due:
            return
        self._due = now + CHECK_SECONDS
        try:
            if self._has_changed():
                self._signature, self._digests = _read(self._path)
                log.info("API keys file %s was read again, valid now: %d", self._path, len(self._digests))
            self._complaint = ""
        except KeysError as error:  # tried again each second: the fault may pass without the file being touched
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("%s; the API keys that were valid before stay valid", error)

    def _has_changed(self) -> bool:
        try:
            return _signature(self._path.stat()) != self._signature
        except OSError:
            return True  # reading it says what is wrong


def _read(path: Path) -> tuple[Signature, Digests]:
    try:
        # opening a pipe would wait for its writer for ever
        if not stat.S_ISREG(path.stat().st_mode):
            raise KeysError(f"API keys file {path} is not a regular file")
        with path.open("rb") as stream:
            # taken before the content: a change that comes in between is then seen at the next look
            signature = _signature(os.fstat(stream.fileno()))
            raw = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise KeysError(f"API keys file {path} cannot be read: {error.strerror or type(error).__name__}") from None
    if len(raw) > MOST_BYTES:
        raise KeysError(f"API keys file {path} is larger than {MOST_BYTES} bytes")
    return signature, _digests(raw, path)


def _digests(raw: bytes, path: Path) -> Digests:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise KeysError(f"API keys file {path} is not UTF-8") from None  # the cause would show the content
    digests: dict[bytes, None] = {}  # in order and each once
    for number, line in enumerate(text.split("\n"), start=1):
        key = line.removesuffix("\r")
        if not key.strip() or key.lstrip().startswith("#"):
            continue
        if not VISIBLE_ASCII.fullmatch(key):
            raise KeysError(
                f"API keys file {path}, line {number}: a key may hold only visible ASCII characters, no white space"
            )
        if len(key) < SHORTEST_KEY:
            raise KeysError(f"API keys file {path}, line {number}: a key needs at least {SHORTEST_KEY} characters")
        digests[hashlib.sha256(key.encode()).digest()] = None
    if not digests:
        raise KeysError(f"API keys file {path} holds no key")
    return tuple(digests)


def _signature(status: os.stat_result) -> Signature:
    return status.st_mtime_ns, status.st_size, status.st_ino
