"""The answer cache: assistants get the same sentences again and again.

No text is stored. A key is a digest, salted for each process. A cached answer has the positions of its slots, not their
values; these are taken from the repeated text.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

from service.student.student import Prediction, Question

_SALT = secrets.token_bytes(16)


class AnswerCache:
    """At most `entries` answers of one loaded student; the least recently used one is dropped first."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._answers: OrderedDict[bytes, Prediction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    @staticmethod
    def key(question: Question) -> bytes:
        """A digest of everything that this student's answer depends on."""
        return hashlib.blake2b(repr(question).encode(), digest_size=16, key=_SALT).digest()

    def get(self, key: bytes, text: str) -> Prediction | None:
        """The cached answer for a key; `text` is the text of the key's question."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        self._answers.move_to_end(key)
        return _with_values_of(text, answer)

    def put(self, key: bytes, answer: Prediction) -> None:
        """Cache an answer."""
        self._answers[key] = _with_values_of("", answer)
        if len(self._answers) > self._entries:
            self._answers.popitem(last=False)


def _with_values_of(text: str, answer: Prediction) -> Prediction:
    if answer.slots is None:
        return answer
    return answer._replace(slots=[slot._replace(value=text[slot.start : slot.end]) for slot in answer.slots])
