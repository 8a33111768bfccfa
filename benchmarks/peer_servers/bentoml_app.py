"""A student behind BentoML; started by ``python -m benchmarks.peers``.

BentoML batches only methods with one argument, a list: with batching a request holds a list of one text.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import bentoml  # type: ignore[import-not-found]

from benchmarks.peer_servers.answers import BATCH, answer_of, load_student, told

HERE = "benchmarks.peer_servers.bentoml_app"


@bentoml.service
class Nlu:
    """The student, a text a request."""

    def __init__(self) -> None:
        self.student = load_student()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, text: str, locale: str) -> dict[str, Any]:
        """One answer."""
        return answer_of(self.student, text, locale)


@bentoml.service
class BatchedNlu:
    """The student, with adaptive batching."""

    def __init__(self) -> None:
        self.student = load_student()

    @bentoml.api(batchable=True, max_batch_size=BATCH)  # type: ignore[untyped-decorator]
    def predict(self, items: list[dict[str, str]]) -> list[dict[str, Any]]:
        """The answers of a batch, text by text."""
        return [answer_of(self.student, item["text"], item["locale"]) for item in items]


def main() -> None:
    """Become ``bentoml serve``."""
    given = told()
    name = "BatchedNlu" if given.is_batched else "Nlu"
    command = [sys.executable, "-m", "bentoml", "serve", f"{HERE}:{name}", "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", str(given.port)])


if __name__ == "__main__":
    main()
