"""One request on its way through the service: everything that is known of it, in one place."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import Depends, Header
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from service.errors import InvalidRequest
from service.monitoring.metrics import NONE
from service.monitoring.timings import Timings

CALL = "nlu.call"
OTHER = "other"  # the endpoint of requests to no path of ours
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
LONGEST_CLIENT_KEY = 256
LONGEST_DEADLINE_MS = 3_600_000

_ids = random.Random()  # seeded by the system; an id must be rare, not secret


class Reply(NamedTuple):
    """What an endpoint answers: a whole body and its headers beyond those of every reply."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
    status: int = 200


def json_reply(body: Any) -> Reply:
    """A body as JSON."""
    return Reply(orjson.dumps(body))


class Call:
    """One request.

    Attributes:
        began: `time.perf_counter()` at its arrival.
        method: GET, POST, ...
        endpoint: its path where that is one of ours, for metrics.
        headers: by name in lower case; of a repeated one, the last.
        request_id: the client's ``x-request-id`` where it is well formed, else one of ours.
        deadline: `time.perf_counter()` after which no work on it may start, if any.
        model: the student that answers, for metrics, once chosen.
        timings: where its time went, once answered.
        status: HTTP status, once the reply has begun.
        afterwards: what is to be done once the reply is sent, if anything.
    """

    __slots__ = (
        "_receive",
        "afterwards",
        "began",
        "deadline",
        "endpoint",
        "headers",
        "method",
        "model",
        "request_id",
        "status",
        "timings",
    )

    def __init__(self, scope: Scope, receive: Receive, endpoint: str) -> None:
        self.began = time.perf_counter()
        self.method: str = scope["method"]
        self.endpoint = endpoint
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id")
        known = given is not None and REQUEST_ID.fullmatch(given)
        self.request_id = given.decode() if given and known else new_request_id()
        self.deadline: float | None = None
        self.model = NONE
        self.timings: Timings | None = None
        self.status = 0
        self.afterwards: Callable[[], None] | None = None
        self._receive = receive

    def set_deadline(self, default_ms: int | None) -> None:
        """Take the deadline from ``x-deadline-ms``, else from the setting.

        Raises:
            InvalidRequest: the header is no number in range.
        """
        given = self.headers.get(b"x-deadline-ms")
        milliseconds = default_ms
        if given is not None:
            if not (given.isdigit() and len(given) <= 7 and 1 <= int(given) <= LONGEST_DEADLINE_MS):
                raise InvalidRequest(problem=f"x-deadline-ms: should be a whole number from 1 to {LONGEST_DEADLINE_MS}")
            milliseconds = int(given)
        self.deadline = None if milliseconds is None else self.began + milliseconds / 1000

    def is_late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.perf_counter() > self.deadline

    def has_left(self) -> bool:
        """Whether the client closed the connection. To be asked once the body is read."""
        message = poll(self._receive)
        return message is not None and message["type"] == "http.disconnect"

    @property
    def client_key(self) -> bytes | None:
        """What the client calls its user, device or session by ``x-client-key``, if anything.

        Raises:
            InvalidRequest: it is longer than a name has to be.
        """
        key = self.headers.get(b"x-client-key")
        if key is not None and len(key) > LONGEST_CLIENT_KEY:
            raise InvalidRequest(problem=f"x-client-key: should have at most {LONGEST_CLIENT_KEY} bytes")
        return key or None


def new_request_id() -> str:
    """An id for a request: 16 hex digits, random."""
    return f"{_ids.getrandbits(64):016x}"


def poll(receive: Receive) -> Message | None:
    """The next ASGI message if it is there already, else None; never waits."""
    step = receive()
    try:
        step.send(None)  # type: ignore[attr-defined]  # typed as awaitable, in fact a coroutine
    except StopIteration as done:
        message: Message = done.value
        return message
    step.close()  # type: ignore[attr-defined]
    return None


def call_of(request: Request) -> Call:
    """The call that the boundary opened for a request."""
    call: Call = request.scope[CALL]
    return call


def timed_call_of(
    request: Request,
    x_request_id: Annotated[  # noqa: ARG001 - the headers stand here for OpenAPI; `Call` reads them
        str | SkipJsonSchema[None],
        Header(description="repeated in the reply where it is well formed; else one is made"),
    ] = None,
    x_deadline_ms: Annotated[  # noqa: ARG001
        Annotated[int, Field(ge=1, le=LONGEST_DEADLINE_MS)] | SkipJsonSchema[None],
        Header(description="milliseconds after which a text not begun is answered 504"),
    ] = None,
) -> Call:
    """The call of a request that may bring a deadline."""
    return call_of(request)


ClientKey = Annotated[
    Annotated[str, Field(max_length=LONGEST_CLIENT_KEY)] | SkipJsonSchema[None],
    Header(description="an opaque, stable name of the user, device or session: keeps it in one arm of an experiment"),
]


def client_call_of(call: Annotated[Call, Depends(timed_call_of)], x_client_key: ClientKey = None) -> Call:  # noqa: ARG001
    """The call of a request that may bring a deadline and a client's key."""
    return call


ClientCall = Annotated[Call, Depends(client_call_of)]
ThisCall = Annotated[Call, Depends(call_of)]
TimedCall = Annotated[Call, Depends(timed_call_of)]
