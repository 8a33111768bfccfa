"""What every peer's server answers, in the framework's own processes; imports nothing but the student.

A framework starts its own processes and imports the module with the model in each, so the student's folder comes by
environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from service.student.student import Student

FOLDER = "LOADTEST_PEER_STUDENT"
BATCH = 32  # requests of a batch at most: as many as there are connections
WAIT_SECONDS = 0.001  # how long a batch may wait for more; most answers take less

Json = dict[str, Any]


@cache
def load_student() -> Student:
    """The student that this process is to serve, warm."""
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
    found = student.predict(text)
    domain, intent = found.domain, found.intent
    return {
        "domain": domain[0]._asdict() if domain else None,
        "intent": intent[0]._asdict() if intent else None,
        "slots": None if found.slots is None else [slot._asdict() for slot in found.slots],
        "locale": locale,
        "truncated": found.truncated,
    }
