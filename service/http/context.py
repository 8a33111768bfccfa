"""The context of one request, and the reply of an endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from fastapi import Depends
from starlette.types import Receive, Scope

from service.monitoring.metrics import NONE
from service.monitoring.timings import Timings

Json = dict[str, Any]


class Reply(NamedTuple):
    """The reply of an endpoint: body, headers beyond those of every reply, and status."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
    status: int = 200


@dataclass(slots=True, eq=False)
class RequestContext:
    """The data of one request, read by every layer.

    Attributes:
        method: GET, POST, ...
        endpoint: its path if the service has that path, with ``{model}`` for the name of a model in it, else "other";
            for metrics.
        headers: by lower-case name; the last one of a repeated header.
        request_id: the client's ``x-request-id`` where it is well formed, else a generated one.
        receive: the ASGI callable for its body.
        began: `time.perf_counter()` at its arrival.
        deadline: the `time.perf_counter()` by which inference must start, if any.
        model: the student that answers, once chosen; for metrics.
        timings: the time of each phase, once answered.
        status: HTTP status, once the reply has been sent.
        after_reply: called with this context after the reply was sent, if set.
        scope: the ASGI scope, with path and query as they were sent.
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
    scope: Scope = field(default_factory=dict)


# The endpoints' parameter. The middleware passes it; FastAPI documents it, and must not look for it in the query.
Context = Annotated[RequestContext, Depends(lambda: None)]
