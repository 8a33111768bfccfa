"""A student behind LitServe."""

from __future__ import annotations

from typing import Any

import litserve  # type: ignore[import-not-found]

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, answer, answers, load_student
from benchmarks.peer_servers.serve import Given


class Nlu(litserve.LitAPI):  # type: ignore[misc]
    """The student in LitServe's steps."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe names it
        """Load it, once in each worker."""
        load_student()

    def decode_request(self, request: dict[str, str], **_: Any) -> dict[str, str]:
        """Text and locale."""
        return request

    def batch(self, inputs: list[dict[str, str]]) -> list[dict[str, str]]:
        """Gathered requests as they are: no array is made of them."""
        return inputs

    def predict(self, x: Any, **_: Any) -> Any:
        """One answer, or those of a batch."""
        return answers(x) if isinstance(x, list) else answer(x["text"], x["locale"])

    def unbatch(self, output: list[Any]) -> list[Any]:
        """The answers of a batch one by one."""
        return output

    def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        """It is JSON already."""
        return output


def serve(given: Given) -> None:
    """Serve until SIGTERM."""
    more = {"max_batch_size": BATCH, "batch_timeout": WAIT_SECONDS} if given.is_batched else {}
    server = litserve.LitServer(Nlu(**more), accelerator="cpu")
    server.run(host="127.0.0.1", port=given.port, log_level="warning", generate_client_file=False)
