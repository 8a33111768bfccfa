"""A student behind Ray Serve."""

from __future__ import annotations

import signal
from typing import Any

import ray  # type: ignore[import-not-found]
from ray import serve as ray_serve
from starlette.requests import Request

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, answer, answers, load_student
from benchmarks.peer_servers.serve import ServeOptions


@ray_serve.deployment
class Nlu:
    """The student, with one text per request."""

    def __init__(self) -> None:
        load_student()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One answer."""
        asked = await request.json()
        return answer(asked["text"], asked["locale"])


@ray_serve.deployment(max_ongoing_requests=2 * BATCH)  # the default, 5, would limit the batch size
class BatchedNlu:
    """The student, with dynamic request batching."""

    def __init__(self) -> None:
        load_student()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One answer, made in a batch with those of waiting requests."""
        answer: dict[str, Any] = await self.answers(await request.json())
        return answer

    @ray_serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)  # type: ignore[untyped-decorator]
    async def answers(self, batch: list[dict[str, str]]) -> list[dict[str, Any]]:
        """The answers of a batch."""
        return answers(batch)


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM."""
    ray.init(address="local", _temp_dir=str(options.scratch), include_dashboard=False, logging_level="warning")
    ray_serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    served: Any = BatchedNlu if options.is_batched else Nlu
    ray_serve.run(served.bind())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray_serve.shutdown()
    ray.shutdown()
