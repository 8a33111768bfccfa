"""A student behind BentoML. It batches only methods with one list argument, so a batched request is a list of one."""

from __future__ import annotations

from typing import Any

import bentoml  # type: ignore[import-not-found]

from benchmarks.peer_servers.answers import BATCH, answer, answers, load_student
from benchmarks.peer_servers.serve import ServeOptions


@bentoml.service
class Nlu:
    """The student, with one text per request."""

    def __init__(self) -> None:
        load_student()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, text: str, locale: str) -> dict[str, Any]:
        """One answer."""
        return answer(text, locale)


@bentoml.service
class BatchedNlu:
    """The student, with adaptive batching."""

    def __init__(self) -> None:
        load_student()

    @bentoml.api(batchable=True, max_batch_size=BATCH)  # type: ignore[untyped-decorator]
    def predict(self, items: list[dict[str, str]]) -> list[dict[str, Any]]:
        """The answers of a batch."""
        return answers(items)


def serve(options: ServeOptions) -> list[str]:
    """The command ``bentoml serve``."""
    name = f"{__name__}:{'BatchedNlu' if options.is_batched else 'Nlu'}"
    return ["-m", "bentoml", "serve", name, "--host", "127.0.0.1", "--port", str(options.port)]
