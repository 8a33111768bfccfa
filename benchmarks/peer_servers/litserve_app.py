"""A student behind LitServe."""

from __future__ import annotations

from typing import Any

import litserve  # type: ignore[import-not-found]

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, answer, answers, load_student
from benchmarks.peer_servers.serve import ServeOptions


class Nlu(litserve.LitAPI):  # type: ignore[misc]
    """The student in LitServe's steps."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe names it
        """Load it, once in each worker."""
        load_student()

    def decode_request(self, request: dict[str, str], **_: Any) -> dict[str, str]:
        """Text and locale."""
        return request

    def batch(self, inputs: list[dict[str, str]]) -> list[dict[str, str]]:
        """The requests of a batch, unchanged."""
        return inputs

    def predict(self, x: Any, **_: Any) -> Any:
        """One answer, or those of a batch."""
        return answers(x) if isinstance(x, list) else answer(x["text"], x["locale"])

    def unbatch(self, output: list[Any]) -> list[Any]:
        """The answers of a batch one by one."""
        return output

    def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The answer, which is JSON already."""
        return output


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM."""
    more = {"max_batch_size": BATCH, "batch_timeout": WAIT_SECONDS} if options.is_batched else {}
    server = litserve.LitServer(Nlu(**more), accelerator="cpu")
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
