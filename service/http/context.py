"""What is known of one request, and what an endpoint replies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from fastapi import Depends
from starlette.types import Receive

from service.monitoring.metrics import NONE
from service.monitoring.timings import Timings

Json = dict[str, Any]


class Reply(NamedTuple):
    """The whole reply of an endpoint: body, headers besides those of every reply, and status."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
    status: int = 200


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request. It holds data only: every layer reads it, so it calls into none.

    Attributes:
        method: GET, POST, ...
        endpoint: its path if the service has it, else "other"; for metrics.
        headers: by lower-case name; the last one of a repeated header.
        request_id: the client's ``x-request-id`` where it is well formed, else a generated one.
        receive: the ASGI callable for its body.
        began: `time.perf_counter()` at its arrival.
        deadline: `time.perf_counter()` after which no work on it may start, if any.
        model: the student that answers, once chosen; for metrics.
        timings: where its time went, once answered.
        status: HTTP status, once the reply has been sent.
        after_reply: called with this context once the reply was sent, if set.
    """

    method: str
    endpoint: str
    headers: Mapping[bytes, bytes]
    request_id: str
    receive: Receive
    began: float = field(default_factory=time.perf_counter)
    deadline: float | None = None
    model: str = NONE
    timings: Timings | None = None
    status: int = 0
    after_reply: Callable[[RequestContext], None] | None = None


# The parameter of endpoints. The middleware passes it; FastAPI only documents them and must not read it from the query.
Context = Annotated[RequestContext, Depends(lambda: None)]
