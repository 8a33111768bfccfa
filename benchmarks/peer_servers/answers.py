"""The answers of all peers' servers, made in the framework's own processes; imports nothing but the student.

A framework starts its own processes and imports the module with the model in each, so an environment variable names the
student's folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from service.student.student import Student

FOLDER = "LOADTEST_PEER_STUDENT"
BATCH = 32  # maximum requests of a batch; as many as there are connections
WAIT_SECONDS = 0.001  # maximum time that a batch waits for more requests

Json = dict[str, Any]


@cache
def load_student() -> Student:
    """The student that this process serves, warmed up."""
    student = Student.load(Path(os.environ[FOLDER]))
    student.warm_up()
    return student


def answer(text: str, locale: str) -> Json:
    """The answer to one text."""
    return answer_of(load_student(), text, locale)


def answers(asked: Iterable[Mapping[str, str]]) -> list[Json]:
    """The answers to the requests of a batch, text by text."""
    return [answer(one["text"], one["locale"]) for one in asked]


def answer_of(student: Student, text: str, locale: str) -> Json:
    """A student's answer to one text."""
    result = student.predict(text)
    domain, intent = result.domain, result.intent
    return {
        "domain": domain[0]._asdict() if domain else None,
        "intent": intent[0]._asdict() if intent else None,
        "slots": None if result.slots is None else [slot._asdict() for slot in result.slots],
        "locale": locale,
        "truncated": result.truncated,
    }
