"""The handler that TorchServe packs into a model archive: a student, without torch."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.peer_servers.answers import answer_of, load_student


class Handler:
    """TorchServe's contract: `initialize` once, then `handle` for each batch."""

    def initialize(self, _: Any) -> None:
        """Load the student."""
        self.student = load_student()

    def handle(self, requests: list[dict[str, Any]], _: Any) -> list[dict[str, Any]]:
        """The answers to the requests of a batch, text by text."""
        return [self._answer(request["body"]) for request in requests]

    def _answer(self, body: Any) -> dict[str, Any]:
        asked = body if isinstance(body, dict) else json.loads(body)
        return answer_of(self.student, asked["text"], asked["locale"])
