"""Answers remembered: assistants hear the same sentences again and again.

No text is kept. A key is a digest, salted for each process, and a remembered answer holds the positions of its slots,
not their values; those are cut from the text that asks again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

from service.student.decoding import Span
from service.student.student import Prediction, Question

_SALT = secrets.token_bytes(16)


class AnswerCache:
    """The last answers of one student, at most `entries` of them; the one longest unasked goes first.

    It belongs to one loaded student, so a reload begins with an empty one.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._answers: OrderedDict[bytes, Prediction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    @staticmethod
    def key(question: Question) -> bytes:
        """All that an answer of this student depends on, as 16 bytes."""
        return hashlib.blake2b(repr(question).encode(), digest_size=16, key=_SALT).digest()

    def get(self, key: bytes, text: str) -> Prediction | None:
        """The answer remembered for a key; `text` is the text that the key was made of."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        self._answers.move_to_end(key)
        return answer._replace(slots=_with_values(answer.slots, text))

    def put(self, key: bytes, answer: Prediction) -> None:
        """Remember an answer."""
        self._answers[key] = answer._replace(slots=_without_values(answer.slots))
        if len(self._answers) > self._entries:
            self._answers.popitem(last=False)


def _without_values(slots: list[Span] | None) -> list[Span] | None:
    return None if slots is None else [slot._replace(value="") for slot in slots]


def _with_values(slots: list[Span] | None, text: str) -> list[Span] | None:
    return None if slots is None else [slot._replace(value=text[slot.start : slot.end]) for slot in slots]
