"""What every peer's server answers, from what its process was told; imports nothing but the student.

A framework starts its own processes and imports the module with the model in each, so the student's folder comes by
environment.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from service.student.student import Prediction, Student

FOLDER = "LOADTEST_PEER_STUDENT"
DEFAULTS, BATCHED = "defaults", "batched"
SETTINGS = (DEFAULTS, BATCHED)
BATCH = 32  # the most requests that a batch may hold: as many as there are connections
WAIT_SECONDS = 0.001  # how long a batch may wait for more; most answers take less

Json = dict[str, Any]


class Told(NamedTuple):
    """What a server's command line says."""

    student: Path
    setting: str
    port: int
    scratch: Path

    @property
    def is_batched(self) -> bool:
        """Whether the framework is to gather requests."""
        return self.setting == BATCHED


def told(argv: Sequence[str] | None = None) -> Told:
    """Parse the command line that all peers' servers share, and hand the student on to their processes."""
    parser = argparse.ArgumentParser(description="A student behind another framework, on the loopback interface.")
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--setting", choices=SETTINGS, default=DEFAULTS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="a folder for what the framework writes")
    parsed = parser.parse_args(argv)
    os.environ[FOLDER] = str(parsed.student)
    return Told(parsed.student, parsed.setting, parsed.port, parsed.scratch)


def load_student() -> Student:
    """The student that this process was told to serve, warm."""
    student = Student.load(Path(os.environ[FOLDER]))
    student.warm_up()
    return student


def answer_of(student: Student, text: str, locale: str) -> Json:
    """The answer to one text."""
    found = student.predict(text)
    domain, intent = found.domain, found.intent
    return {
        "domain": domain[0]._asdict() if domain else None,
        "intent": intent[0]._asdict() if intent else None,
        "slots": slots_of(found),
        "locale": locale,
        "truncated": found.truncated,
    }


def slots_of(found: Prediction) -> list[Json] | None:
    """The slots as JSON."""
    return None if found.slots is None else [slot._asdict() for slot in found.slots]


def free_port() -> int:
    """A port of the loopback interface that is free now, for what a framework opens beside its HTTP port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
