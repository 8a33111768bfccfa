"""Optional API keys: a file with one key a line, several valid at once, so that keys rotate without a restart.

Memory holds the keys' sha256 digests only, and no message, log line or `repr` shows a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from service.watched_file import FileKind, WatchedFile

MIN_KEY_LENGTH = 16
MAX_BYTES = 1 << 18
VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")

Digests = tuple[bytes, ...]


class KeysError(ValueError):
    """A key file that can't be used; the message is one sentence, names file and line, and never shows a key."""


class ApiKeys:
    """The keys that are valid now, read again when their file changes.

    The file is checked at most once a second, by requests. A new version that can't be used is logged once and changes
    nothing: the last valid keys stay.

    Usage::

        keys = ApiKeys(Path("keys"))
        keys.admits(scope["headers"])

    Args:
        path: of the file: one key a line, blank lines and lines that begin with ``#`` left out.
        clock: a monotonic clock, in seconds.

    Raises:
        KeysError: the file is missing, unreadable, too large or not UTF-8, holds no key, or holds one that is too short
            or not of visible ASCII characters.
    """

    __slots__ = ("_file",)

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = WatchedFile(path, KEYS_FILE, clock)

    def admits(self, headers: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request brings a valid key: ``authorization: Bearer KEY`` or ``x-api-key: KEY``.

        `headers` are those of an ASGI scope, with names in lower case; of a repeated one the last counts, so that a
        request can't try many keys. Never raises.
        """
        digests = self._file.current
        found = dict(headers)
        offered = []
        if (value := found.get(b"x-api-key")) is not None:
            offered.append(value)
        if (value := found.get(b"authorization", b""))[:7].lower() == b"bearer ":
            offered.append(value[7:])
        admitted = False
        for key in offered:
            digest = hashlib.sha256(key.strip()).digest()
            for known in digests:  # all of them: the time of an early exit would leak information
                admitted |= hmac.compare_digest(known, digest)
        return admitted

    def __repr__(self) -> str:
        return f"ApiKeys({str(self._file.path)!r}, {len(self._file.current)} keys)"


def _digests(text: str, named: str) -> Digests:
    digests: dict[bytes, None] = {}  # in order and each once
    for number, line in enumerate(text.split("\n"), start=1):
        key = line.removesuffix("\r")
        if not key.strip() or key.lstrip().startswith("#"):
            continue
        if not VISIBLE_ASCII.fullmatch(key):
            raise KeysError(f"{named}, line {number}: a key may hold only visible ASCII characters, no white space")
        if len(key) < MIN_KEY_LENGTH:
            raise KeysError(f"{named}, line {number}: a key needs at least {MIN_KEY_LENGTH} characters")
        digests[hashlib.sha256(key.encode()).digest()] = None
    if not digests:
        raise KeysError(f"{named} holds no key")
    return tuple(digests)


KEYS_FILE = FileKind(
    name="API keys file",
    error=KeysError,
    parse=_digests,
    summary=lambda digests: f"valid now: {len(digests)}",
    kept="the API keys that were valid before stay valid",
    max_bytes=MAX_BYTES,
)
