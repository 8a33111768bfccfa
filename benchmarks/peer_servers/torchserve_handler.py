"""The handler in TorchServe's model archive: a student, without torch."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.peer_servers.answers import answers, load_student


class Handler:
    """TorchServe's interface: `initialize` once, then `handle` for each batch."""

    def initialize(self, _: Any) -> None:
        """Load the student."""
        load_student()

    def handle(self, requests: list[dict[str, Any]], _: Any) -> list[dict[str, Any]]:
        """The answers to the requests of a batch."""
        bodies = [request["body"] for request in requests]
        return answers(body if isinstance(body, dict) else json.loads(body) for body in bodies)
