"""The outermost ASGI layer: request ids, API keys, dispatch to endpoints, and one shape for every error.

Requests go straight to the endpoints; FastAPI starts and stops the service, and documents it. No exception leaves this
layer: frameworks log messages and values of exceptions, which may contain a user's text.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl

import orjson
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.datastructures import State
from starlette.types import Receive, Scope, Send

from service import errors
from service.errors import ENDINGS, ServiceError, error_body, log_fault
from service.http.context import Reply, RequestContext
from service.http.keys import ApiKeys
from service.http.requests import read_body
from service.monitoring.metrics import NONE, Metrics
from service.monitoring.timings import Timings
from service.monitoring.tracing import Tracer
from service.settings import Settings

OTHER = "other"  # endpoint, in metrics, of requests to unknown paths
# Paths that need an API key, if keys are configured.
GUARDED = ("/v1/", "/v2/models/", "/model/", "/status")
MODEL_PATHS = "/v2/models/"  # followed by the name of a model
RASA_PATHS = ("/model/", "/status")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
MAX_DEADLINE_MS = 3_600_000
JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")

_random = random.Random()  # seeded by the system; ids must be unique, not secret


class Endpoint(NamedTuple):
    """One method of one path.

    Attributes:
        handler: ``async def handler(context[, body])``.
        body: the model of its body; None if it takes none.
        read: reads the body in place of `read_body`, with the same parameters.
        error_body: the JSON body of an error, from the error and the request's id.
    """

    handler: Callable[..., Awaitable[Reply]]
    body: type[BaseModel] | None
    read: Callable[..., Awaitable[BaseModel]] | None = None
    error_body: Callable[[ServiceError, str], Mapping[str, object]] = error_body


class Draining(Protocol):
    """The part of the registry that says whether the service is stopping."""

    draining: bool


@dataclass(eq=False)
class RequestMiddleware:
    """The service as an ASGI application; see the module's docstring.

    Attributes:
        app: starts and stops the service.
        endpoints: of the service, by path and method.
    """

    app: FastAPI
    endpoints: Mapping[str, Mapping[str, Endpoint]]
    settings: Settings
    lifecycle: Draining
    metrics: Metrics
    keys: ApiKeys | None = None
    tracer: Tracer | None = None

    @property
    def state(self) -> State:
        """The state of the application: `registry`, `loaded`, `reload`."""
        return self.app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        endpoint = path if path in self.endpoints else self._template_of(path)
        headers = dict(scope["headers"])
        sent = headers.get(b"x-request-id")
        request_id = sent.decode() if sent is not None and REQUEST_ID.fullmatch(sent) else _new_request_id()
        context = RequestContext(scope["method"], endpoint, headers, request_id, receive, scope=scope)
        self.metrics.requests_in_flight += 1
        try:
            await self._send(context, await self._reply(context), send)
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - no exception may leave this layer
            log_fault(error, request_id)
        finally:
            self._finish(context)

    def refuse(self, error: ServiceError) -> Reply:
        """The reply to bytes that are not a valid HTTP request."""
        self.metrics.defer(self.metrics.count_request, NONE, OTHER, error.row.status, 0.0)
        request_id = _new_request_id()
        reply = _error_reply(error, request_id)
        return reply._replace(headers=(*reply.headers, (b"x-request-id", request_id.encode())))

    async def _reply(self, context: RequestContext) -> Reply | None:
        """The endpoint's reply, or that of its error; None if the client has disconnected."""
        try:
            endpoint = self._endpoint(context)
            if endpoint.body is None:
                return await endpoint.handler(context)
            settings = self.settings
            context.deadline = _deadline(context, settings.deadline_ms)
            read = endpoint.read or read_body
            body = await read(
                context.receive, context.headers, endpoint.body, settings.max_body_bytes, settings.body_seconds
            )
            return await endpoint.handler(context, body)
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - no exception may leave this layer
            context.timings = None
            problem = errors.reported(error, context.request_id)
            self.metrics.count_error(problem)
            if isinstance(problem, errors.ClientLeft):
                return None
            methods = self.endpoints.get(context.endpoint)
            shape = error_body if methods is None else next(iter(methods.values())).error_body
            return _error_reply(problem, context.request_id, shape)

    def _template_of(self, path: str) -> str:
        """The path of an endpoint whose ``{model}`` stands for a part of this path, else "other"."""
        if not path.startswith(MODEL_PATHS):
            return OTHER
        name, slash, rest = path.removeprefix(MODEL_PATHS).partition("/")
        template = f"{MODEL_PATHS}{{model}}{slash}{rest}"
        return template if name and template in self.endpoints else OTHER

    def _endpoint(self, context: RequestContext) -> Endpoint:
        path = context.endpoint
        methods = self.endpoints.get(path)
        if methods is None:
            raise errors.UnknownPath
        if self.keys is not None and path.startswith(GUARDED) and not self.keys.admits(_credentials(context)):
            raise errors.Unauthorized({"www-authenticate": "Bearer"})
        endpoint = methods.get("GET" if context.method == "HEAD" else context.method)
        if endpoint is None:
            raise errors.WrongMethod({"allow": ", ".join(methods)}, allowed=" or ".join(methods))
        return endpoint

    async def _send(self, context: RequestContext, reply: Reply | None, send: Send) -> None:
        if reply is None:
            return
        context.status = reply.status
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body)), *self._headers(context)]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _headers(self, context: RequestContext) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", context.request_id.encode())]
        if context.timings is not None:
            headers.append((b"server-timing", _server_timing(context.timings)))
        if self.lifecycle.draining:  # the client's next connection should go to another instance
            headers.append(CLOSE)
        return headers

    def _finish(self, context: RequestContext) -> None:
        """Run the work that was deferred until after the reply."""
        self.metrics.requests_in_flight -= 1
        seconds = context.timings.total if context.timings is not None else time.perf_counter() - context.began
        status = context.status or errors.ClientLeft.row.status
        self.metrics.defer(self.metrics.count_request, context.model, context.endpoint, status, seconds)
        if context.after_reply is not None:
            context.after_reply(context)
        if self.tracer is not None:
            self.tracer.record(context)


def _credentials(context: RequestContext) -> Mapping[bytes, bytes]:
    """The headers that may hold an API key; clients of Rasa send theirs as ``token`` in the query."""
    if context.endpoint.startswith(RASA_PATHS):
        for name, value in parse_qsl(context.scope.get("query_string", b"").decode("latin-1")):
            if name == "token":
                return {b"x-api-key": value.encode(), **context.headers}
    return context.headers


def _new_request_id() -> str:
    return f"{_random.getrandbits(64):016x}"


def _deadline(context: RequestContext, default_ms: int | None) -> float | None:
    """The deadline that ``x-deadline-ms`` sets, else the default; see `RequestContext.deadline`."""
    value = context.headers.get(b"x-deadline-ms")
    milliseconds = default_ms
    if value is not None:
        if not (value.isdigit() and len(value) <= 7 and 1 <= int(value) <= MAX_DEADLINE_MS):
            raise errors.InvalidRequest(problem=f"x-deadline-ms: should be a whole number from 1 to {MAX_DEADLINE_MS}")
        milliseconds = int(value)
    return None if milliseconds is None else context.began + milliseconds / 1000


def _server_timing(timings: Timings) -> bytes:
    return b"queue;dur=%.3f, tokenize;dur=%.3f, inference;dur=%.3f, decode;dur=%.3f, total;dur=%.3f" % tuple(
        [seconds * 1000 for seconds in timings]
    )


def _error_reply(
    error: ServiceError, request_id: str, shape: Callable[[ServiceError, str], Mapping[str, object]] = error_body
) -> Reply:
    headers = (JSON, *((name.encode(), value.encode()) for name, value in error.headers.items()))
    return Reply(orjson.dumps(shape(error, request_id)), headers, error.row.status)
