"""The outermost layer of our own: every request gets an id, a measurement and, whatever goes wrong, one kind of error.

No exception passes it: the framework's own last resort logs messages and values, which may hold a user's text.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ClientLeft, InternalError, ServiceError, error_response, log_fault
from service.metrics import NONE, Metrics, Timings

CALL = "nlu.call"
OTHER = "other"
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Call:
    """One request on its way through the service.

    Attributes:
        began: `time.perf_counter()` at its arrival.
        request_id: the client's ``x-request-id`` where it is well formed, else one of ours.
        endpoint: its path where that is one of ours, for metrics.
        model: the student that answers, for metrics, once chosen.
        timings: where its time went, once answered.
    """

    __slots__ = ("began", "endpoint", "model", "request_id", "status", "timings")

    def __init__(self, request_id: str, endpoint: str) -> None:
        self.began = time.perf_counter()
        self.request_id = request_id
        self.endpoint = endpoint
        self.model = NONE
        self.status = 0
        self.timings: Timings | None = None


def call_of(scope: Scope) -> Call:
    """The call that the boundary opened for this request."""
    call: Call = scope[CALL]
    return call


class Boundary:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: Collection[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.endpoints = frozenset(endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        call = scope[CALL] = Call(_request_id(scope), path if path in self.endpoints else OTHER)

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message["headers"], *_headers(call)]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, tagged)
        except ServiceError as error:
            await self._refuse(error, call, scope, receive, tagged)
        except Exception as error:  # noqa: BLE001 - nothing may pass
            log_fault(error, call.request_id)
            await self._refuse(InternalError(), call, scope, receive, tagged)
        finally:
            self.metrics.in_flight.dec()
            seconds = call.timings.total if call.timings else time.perf_counter() - call.began
            self.metrics.count_request(call.model, call.endpoint, call.status or ClientLeft.row.status, seconds)

    async def _refuse(self, error: ServiceError, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        self.metrics.count_error(error)
        if call.status or isinstance(error, ClientLeft):  # a reply has begun, or nobody is there to read one
            return
        call.timings = None
        await error_response(error, call.request_id)(scope, receive, send)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
            break
    return secrets.token_hex(8)


def _headers(call: Call) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", call.request_id.encode())]
    if call.timings:
        headers.append((b"server-timing", call.timings.header().encode()))
    return headers
