"""One request on a connection and its reply, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import http
from typing import Any, Protocol

from starlette.types import Message, Scope

from service.errors import ENDINGS, ServiceError, log_fault
from service.http.flow import FlowControl

STATUS_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = b"connection: close\r\n"
DISCONNECT: Message = {"type": "http.disconnect"}


class CycleConnection(Protocol):
    """What a cycle needs of its connection; see `service.http.connection.Connection`."""

    app: Any
    tasks: set[Any]
    flow: FlowControl

    def head_of(self, status: int) -> list[bytes]:
        """The first lines of a reply: status and date."""

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client has disconnected."""

    def resume_reading(self) -> None:
        """Resume reading: the body received so far was consumed."""

    def is_last(self) -> bool:
        """Whether the current reply is the last one on this connection."""

    def finish(self, cycle: RequestResponseCycle) -> None:
        """The reply was sent: start the next request, or close."""

    def abort(self) -> None:
        """Close at once, because a reply could not be finished."""


class RequestResponseCycle:
    """One request and its reply; `receive` and `send` are those of ASGI.

    Attributes:
        keep_alive: the connection may carry another request after it.
        is_over: the reply was sent, or the client has disconnected.
        task: runs the application.
    """

    def __init__(self, connection: CycleConnection, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self.keep_alive = keep_alive
        self.is_over = False
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._scope = scope
        self._expects_continue = expects_continue
        self._chunks: list[bytes] = []
        self._size = 0
        self._more = True
        self._is_updated = False
        self._has_begun = False
        self._error: ServiceError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._head: list[bytes] = []
        self._parts: list[bytes] = []

    async def run(self) -> None:
        """Run the application. If it does not finish its reply, close: a partial reply must not look complete."""
        connection = self._connection
        self._has_begun = True
        try:
            if not self.is_over:
                await connection.app(self._scope, self.receive, self.send)
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - a last resort: the application handles its own errors
            log_fault(error, "(protocol)")
        finally:
            connection.tasks.discard(self.task)
            self._scope = {}  # the application may have stored references to this object in it
            if not self.is_over:
                self.end()
                connection.abort()

    async def receive(self) -> Message:
        """The next part of the body; after the last one, wait for the client to disconnect or the reply to be sent.

        Raises:
            ServiceError: the rest of the body is invalid.
        """
        if self._expects_continue:
            self._expects_continue = False
            if self._more and not self.is_over:
                self._connection.write(CONTINUE)
        if not self._is_updated and not self.is_over:
            if self._more:  # else only the next request could arrive, and it can wait
                self._connection.resume_reading()
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self.is_over:
            return DISCONNECT
        if self._error is not None:
            raise self._error
        chunks, self._chunks, self._size, self._is_updated = self._chunks, [], 0, False
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def send(self, message: Message) -> None:
        """Take the head or a part of the body of the reply; it is written once it is complete."""
        if self.is_over:
            return
        if message["type"] == "http.response.start":
            self._set_head(message)
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        connection = self._connection
        if connection.flow.is_full and not await connection.flow.drain():
            return
        body = b"".join(self._parts)
        self._head.append(b"content-length: %d\r\n\r\n" % len(body))
        if self._scope["method"] != "HEAD":
            self._head.append(body)
        connection.write(b"".join(self._head))
        self.end()
        connection.finish(self)

    def feed(self, chunk: bytes) -> int:
        """Take a part of the request's body. Returns how many bytes are unread."""
        if self.is_over:
            return 0
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._wake()
        return self._size

    def feed_end(self) -> None:
        """The request is complete."""
        self._more = False
        self._wake()

    def fail(self, error: ServiceError) -> bool:
        """The rest of the body is invalid. False if the application has not begun yet, which then never begins."""
        if not self._has_begun:
            self.end()
            return False
        self.keep_alive = False
        self._error = error
        self._wake()
        return True

    def end(self) -> None:
        """Stop: the reply was sent, or the client has disconnected."""
        self.is_over = True
        self._chunks = []
        self._head = []
        self._parts = []
        self._wake()

    def _set_head(self, message: Message) -> None:
        if self._more:  # the rest of the body is not read
            self.keep_alive = False
        head = self._connection.head_of(message["status"])
        for name, value in message["headers"]:
            if name == b"connection" and value == b"close":
                self.keep_alive = False
            elif name != b"content-length":
                head.append(b"%s: %s\r\n" % (name, value))
        if not self.keep_alive or self._connection.is_last():
            head.append(CLOSE)
        self._head = head

    def _wake(self) -> None:
        self._is_updated = True
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
