"""The outermost layer: every request gets an id, a measurement and, whatever goes wrong, one kind of error.

Requests to our own endpoints go from here straight to them; what FastAPI serves (``/docs``) goes on to FastAPI. No
exception passes: the framework's own last resort logs messages and values, which may hold a user's text.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

import orjson
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.datastructures import State
from starlette.types import Message, Receive, Scope, Send

from service.errors import (
    ClientLeft,
    InternalError,
    ServiceError,
    Unauthorized,
    UnknownPath,
    WrongMethod,
    error_body,
    log_fault,
)
from service.http.bodies import parse, read_body
from service.http.context import CALL, OTHER, Call, Reply
from service.http.keys import ApiKeys
from service.models.registry import Engine
from service.monitoring.metrics import Metrics
from service.monitoring.tracing import Tracer
from service.settings import Settings

GUARDED = "/v1/"
JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")


class Endpoint(NamedTuple):
    """What answers one method of one path: ``async def answer(call[, body])``, and the model of its body."""

    answer: Callable[..., Awaitable[Reply]]
    body: type[BaseModel] | None


class Boundary:
    """The service as an ASGI application; see the module.

    Attributes:
        endpoints: our own, by path and method.
        documents: paths that FastAPI answers.
    """

    def __init__(
        self,
        app: FastAPI,
        endpoints: Mapping[str, Mapping[str, Endpoint]],
        documents: Collection[str],
        settings: Settings,
        engine: Engine,
        metrics: Metrics,
        keys: ApiKeys | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.app = app
        self.endpoints = endpoints
        self.documents = frozenset(documents)
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.keys = keys
        self.tracer = tracer

    @property
    def state(self) -> State:
        """What belongs to the application: `engine`, `loaded`, `reload`."""
        return self.app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        known = path in self.endpoints or path in self.documents
        call = scope[CALL] = Call(scope, receive, path if known else OTHER)
        self.metrics.requests_in_flight += 1
        try:
            if path in self.documents:
                await self.app(scope, receive, self._tagging(call, send))
            else:
                await self._send(call, await self._reply(call, path, receive), send)
        except Exception as error:  # noqa: BLE001 - nothing may pass
            log_fault(error, call.request_id)
        finally:
            self._close(call)

    async def _reply(self, call: Call, path: str, receive: Receive) -> Reply | None:
        """What the endpoint answers, or the error in its place; None where nobody is there to read it."""
        try:
            endpoint = self._endpoint(call, path)
            if endpoint.body is None:
                return await endpoint.answer(call)
            call.set_deadline(self.settings.deadline_ms)
            raw = await read_body(call, receive, self.settings.max_body_bytes, self.settings.body_seconds)
            return await endpoint.answer(call, parse(raw, endpoint.body))
        except ServiceError as error:
            return self._refusal(call, error)
        except Exception as error:  # noqa: BLE001 - nothing may pass
            log_fault(error, call.request_id)
            return self._refusal(call, InternalError())

    def _endpoint(self, call: Call, path: str) -> Endpoint:
        methods = self.endpoints.get(path)
        if methods is None:
            raise UnknownPath
        if self.keys is not None and path.startswith(GUARDED) and not self.keys.admits(call.headers.items()):
            raise Unauthorized({"www-authenticate": "Bearer"})
        endpoint = methods.get("GET" if call.method == "HEAD" else call.method)
        if endpoint is None:
            raise WrongMethod({"allow": ", ".join(methods)}, allowed=" or ".join(methods))
        return endpoint

    def _refusal(self, call: Call, error: ServiceError) -> Reply | None:
        self.metrics.count_error(error)
        call.timings = None
        if isinstance(error, ClientLeft):
            return None
        headers = [JSON, *((name.encode(), value.encode()) for name, value in error.headers.items())]
        return Reply(orjson.dumps(error_body(error, call.request_id)), tuple(headers), error.row.status)

    async def _send(self, call: Call, reply: Reply | None, send: Send) -> None:
        if reply is None:
            return
        call.status = reply.status
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body)), *self._headers(call)]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _tagging(self, call: Call, send: Send) -> Send:
        """Send what FastAPI answers, with the headers of every reply."""

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message["headers"], *self._headers(call)]
            await send(message)

        return tagged

    def _headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", call.request_id.encode())]
        if call.timings is not None:
            headers.append((b"server-timing", call.timings.header()))
        if self.engine.draining:  # the client shall look for another connection, to another instance
            headers.append(CLOSE)
        return headers

    def _close(self, call: Call) -> None:
        self.metrics.requests_in_flight -= 1
        seconds = call.timings.total if call.timings is not None else time.perf_counter() - call.began
        status = call.status or ClientLeft.row.status
        self.metrics.defer(self.metrics.count_request, call.model, call.endpoint, status, seconds)
        if call.afterwards is not None:
            call.afterwards()
        if self.tracer is not None:
            self.tracer.record(call, call.headers.items(), call.status)
