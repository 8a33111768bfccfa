"""What is sent to a framework and where its reply holds the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from loadtest.load.texts import Text
from service.student.student import Student

OK = 200
LABELS = ("domain", "intent")


class Answer(NamedTuple):
    """What of an answer must be right: the labels and the slots, not the last digit of a confidence."""

    domain: str | None
    intent: str | None
    slots: tuple[tuple[str, str, int, int], ...] | None


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


def plain_json(path: str) -> Wire:
    """Text and locale as a JSON object, the answer as another."""
    return Wire(path, lambda text: orjson.dumps(text._asdict()), lambda reply: reply)


def list_json(path: str, name: str) -> Wire:
    """A list of one text under a name, a list of one answer."""
    return Wire(path, lambda text: orjson.dumps({name: [text._asdict()]}), lambda reply: reply[0])


def v2(model: str) -> Wire:
    """The V2 inference protocol: tensors of bytes, the answer's JSON as a string in one."""
    return Wire(f"/v2/models/{model}/infer", _v2_body, _v2_answer)


def _v2_body(text: Text) -> bytes:
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": "BYTES", "data": [value]} for name, value in text._asdict().items()
    ]
    return orjson.dumps({"inputs": inputs})


def _v2_answer(reply: Any) -> Any:
    return orjson.loads(reply["outputs"][0]["data"][0])


def expected_answer(student: Student, text: str) -> Answer:
    """The student's own answer."""
    found = student.predict(text)
    return Answer(
        found.domain[0].name if found.domain else None,
        found.intent[0].name if found.intent else None,
        None if found.slots is None else tuple((s.name, s.value, s.start, s.end) for s in found.slots),
    )


def read_answer(answer: Any) -> Answer:
    """A served answer; raises KeyError or TypeError if it is none."""
    names = [answer[head]["name"] if answer[head] else None for head in LABELS]
    slots = answer["slots"]
    return Answer(
        names[0],
        names[1],
        None if slots is None else tuple((s["name"], s["value"], s["start"], s["end"]) for s in slots),
    )


def problem_of(wire: Wire, expected: Answer, status: int, content: bytes) -> str | None:
    """What is wrong with a reply, or None; never repeats a text."""
    if status != OK:
        return f"HTTP {status}"
    try:
        found = read_answer(wire.answer(orjson.loads(content)))
    except (ValueError, KeyError, TypeError, IndexError):
        return "reply holds no answer"
    return None if found == expected else "answer differs from the student's own"
