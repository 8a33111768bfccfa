"""Optional API keys: a file with one key a line, several valid at once, so that keys can be rotated without a restart.

Memory holds the keys' sha256 digests only, and no message, log line or `repr` shows a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

from service.watched_file import WatchedFile

MIN_KEY_LENGTH = 16
MAX_BYTES = 1 << 18
VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")

Digests = tuple[bytes, ...]


class KeysError(ValueError):
    """An invalid key file; the message is one sentence, names file and line, and never contains a key."""


class ApiKeys(WatchedFile[Digests]):
    """The keys in a file, one a line; blank lines and lines that begin with ``#`` are ignored."""

    kind = "API keys file"
    error = KeysError
    kept = "the API keys that were valid before stay valid"
    max_bytes = MAX_BYTES

    def admits(self, headers: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request has a valid key: ``authorization: Bearer KEY`` or ``x-api-key: KEY``.

        `headers` are those of an ASGI scope, with names in lower case; the last of a repeated one counts, so that a
        request can't try many keys. Never raises.
        """
        digests = self.current
        by_name = dict(headers)
        candidates = []
        if (value := by_name.get(b"x-api-key")) is not None:
            candidates.append(value)
        if (value := by_name.get(b"authorization", b""))[:7].lower() == b"bearer ":
            candidates.append(value[7:])
        admitted = False
        for key in candidates:
            digest = hashlib.sha256(key.strip()).digest()
            for known in digests:  # compare all: an early exit would leak information by its time
                admitted |= hmac.compare_digest(known, digest)
        return admitted

    @staticmethod
    def parse(text: str, named: str) -> Digests:
        """The digests of the keys."""
        digests: dict[bytes, None] = {}  # as an ordered set
        for number, line in enumerate(text.split("\n"), start=1):
            key = line.removesuffix("\r")
            if not key.strip() or key.lstrip().startswith("#"):
                continue
            if not VISIBLE_ASCII.fullmatch(key):
                raise KeysError(f"{named}, line {number}: a key may have only visible ASCII characters, no white space")
            if len(key) < MIN_KEY_LENGTH:
                raise KeysError(f"{named}, line {number}: a key must have at least {MIN_KEY_LENGTH} characters")
            digests[hashlib.sha256(key.encode()).digest()] = None
        if not digests:
            raise KeysError(f"{named} has no key; it should have one a line")
        return tuple(digests)

    @staticmethod
    def summary(content: Digests) -> str:
        """How many keys there are."""
        return f"valid now: {len(content)}"

    def __repr__(self) -> str:
        return f"ApiKeys({str(self.path)!r}, {len(self.current)} keys)"
