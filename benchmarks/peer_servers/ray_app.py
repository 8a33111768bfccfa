"""A student behind Ray Serve; started by ``python -m benchmarks.peers``."""

from __future__ import annotations

import signal
from typing import Any

import ray  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, answer_of, load_student, told


@serve.deployment
class Nlu:
    """The student, a text a request."""

    def __init__(self) -> None:
        self.student = load_student()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One answer."""
        asked = await request.json()
        return answer_of(self.student, asked["text"], asked["locale"])


@serve.deployment(max_ongoing_requests=2 * BATCH)  # the default, 5, would keep batches that small
class BatchedNlu:
    """The student, with dynamic request batching."""

    def __init__(self) -> None:
        self.student = load_student()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One answer, made with those of requests that wait as well."""
        answer: dict[str, Any] = await self.answers(await request.json())
        return answer

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)  # type: ignore[untyped-decorator]
    async def answers(self, batch: list[dict[str, str]]) -> list[dict[str, Any]]:
        """The answers of a batch, text by text."""
        return [answer_of(self.student, asked["text"], asked["locale"]) for asked in batch]


def main() -> None:
    """Serve until SIGTERM."""
    given = told()
    ray.init(address="local", _temp_dir=str(given.scratch), include_dashboard=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": given.port})
    served: Any = BatchedNlu if given.is_batched else Nlu
    serve.run(served.bind())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
