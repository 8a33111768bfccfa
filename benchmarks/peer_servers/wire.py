"""What is sent to a framework and where its reply holds the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from loadtest.comparison.quality import answer_of
from loadtest.load.client import OK, LoadError
from loadtest.load.texts import Text
from training.evaluation.scoring import Answer


class Wire(NamedTuple):
    """A way to ask.

    Attributes:
        path: where a server listens, on which the URL goes on.
        body: a text as the content of a request.
        answer: the answer's JSON in the content of a reply; raises if it isn't there.
    """

    path: str
    body: Callable[[Text], bytes]
    answer: Callable[[Any], Any]

    def read(self, status: int, content: bytes) -> Answer:
        """The answer in a reply. Confidences are left out: they may differ in their last digit.

        Raises:
            LoadError: there is none; never repeats a text.
        """
        if status != OK:
            raise LoadError(f"HTTP {status}")
        try:
            return answer_of(self.answer(orjson.loads(content)))
        except (ValueError, KeyError, TypeError, IndexError):
            raise LoadError("reply holds no answer") from None

    def problem_of(self, expected: Answer | None, status: int, content: bytes) -> str | None:
        """What is wrong with a reply, or None; any answer is right where none is expected."""
        try:
            found = self.read(status, content)
        except LoadError as error:
            return str(error)
        return None if expected in (None, found) else "answer differs from the student's own"


def plain_json(path: str) -> Wire:
    """Text and locale as a JSON object, the answer as another."""
    return Wire(path, lambda text: orjson.dumps(text._asdict()), lambda reply: reply)


def list_json(path: str, name: str) -> Wire:
    """A list of one text under a name, a list of one answer."""
    return Wire(path, lambda text: orjson.dumps({name: [text._asdict()]}), lambda reply: reply[0])


def v2(model: str) -> Wire:
    """The V2 inference protocol: tensors of bytes, the answer's JSON as a string in one."""

    def body(text: Text) -> bytes:
        tensor = {"shape": [1, 1], "datatype": "BYTES"}
        return orjson.dumps({"inputs": [tensor | {"name": n, "data": [value]} for n, value in text._asdict().items()]})

    return Wire(f"/v2/models/{model}/infer", body, lambda reply: orjson.loads(reply["outputs"][0]["data"][0]))
