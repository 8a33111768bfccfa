"""Optional API keys: a file with one key a line, several valid at once, so that keys rotate without a restart.

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
    """A key file that can't be used; the message is one sentence, names file and line, and never shows a key."""


class ApiKeys(WatchedFile[Digests]):
    """The keys in a file, one a line; blank lines and lines that begin with ``#`` are left out."""

    kind = "API keys file"
    error = KeysError
    kept = "the API keys that were valid before stay valid"
    max_bytes = MAX_BYTES

    def admits(self, headers: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request brings a valid key: ``authorization: Bearer KEY`` or ``x-api-key: KEY``.

        `headers` are those of an ASGI scope, with names in lower case; of a repeated one the last counts, so that a
        request can't try many keys. Never raises.
        """
        digests = self.current
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

    @staticmethod
    def parse(text: str, named: str) -> Digests:
        """The digests of the keys."""
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

    @staticmethod
    def summary(content: Digests) -> str:
        """How many keys there are."""
        return f"valid now: {len(content)}"

    def __repr__(self) -> str:
        return f"ApiKeys({str(self.path)!r}, {len(self.current)} keys)"
