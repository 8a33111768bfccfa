"""Request and reply formats of the frameworks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from loadtest.comparison.quality import answer_of
from loadtest.load.client import OK, LoadError
from loadtest.load.texts import Text
from training.evaluation.scoring import PredictedLabels


class WireFormat(NamedTuple):
    """Request and reply format of a server.

    Attributes:
        path: path of the endpoint.
        body: makes the request body of a text.
        answer: extracts the answer from a parsed reply; raises if there is none.
    """

    path: str
    body: Callable[[Text], bytes]
    answer: Callable[[Any], Any]

    def read(self, status: int, content: bytes) -> PredictedLabels:
        """The answer in a reply, without confidences, whose last digit may differ.

        Raises:
            LoadError: there is none; the message contains no text.
        """
        if status != OK:
            raise LoadError(f"HTTP {status}")
        try:
            return answer_of(self.answer(orjson.loads(content)))
        except (ValueError, KeyError, TypeError, IndexError):
            raise LoadError("reply holds no answer") from None

    def problem_of(self, expected: PredictedLabels | None, status: int, content: bytes) -> str | None:
        """The problem of a reply, or None; without an expected answer any answer is valid."""
        try:
            answer = self.read(status, content)
        except LoadError as error:
            return str(error)
        return None if expected in (None, answer) else "answer differs from the student's own"


def plain_json(path: str) -> WireFormat:
    """Request and answer are JSON objects."""
    return WireFormat(path, lambda text: orjson.dumps(text._asdict()), lambda reply: reply)


def list_json(path: str, name: str) -> WireFormat:
    """The request is a list of one text under a name, the reply a list of one answer."""
    return WireFormat(path, lambda text: orjson.dumps({name: [text._asdict()]}), lambda reply: reply[0])


def v2(model: str) -> WireFormat:
    """The V2 inference protocol: tensors of bytes; the answer is a JSON string in a tensor."""

    def body(text: Text) -> bytes:
        tensor = {"shape": [1, 1], "datatype": "BYTES"}
        return orjson.dumps({"inputs": [tensor | {"name": n, "data": [value]} for n, value in text._asdict().items()]})

    return WireFormat(f"/v2/models/{model}/infer", body, lambda reply: orjson.loads(reply["outputs"][0]["data"][0]))
