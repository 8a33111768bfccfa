"""One request and its reply on a connection of `protocol`, as ASGI sees them."""

from __future__ import annotations

import asyncio
import http
from typing import TYPE_CHECKING

from starlette.types import Message, Scope

from service.errors import log_fault

if TYPE_CHECKING:
    from service.http.connection import Connection

STATUS_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = b"connection: close\r\n"
DISCONNECT: Message = {"type": "http.disconnect"}


class Exchange:
    """One request and its reply; `receive` and `send` are those of ASGI.

    Attributes:
        keep_alive: the connection may carry another request after it.
        over: the reply is sent, or the client has left.
        task: what answers it.
    """

    __slots__ = (
        "_chunks",
        "_connection",
        "_expects_continue",
        "_head",
        "_more",
        "_parts",
        "_reader",
        "_scope",
        "_size",
        "_unread",
        "keep_alive",
        "over",
        "task",
    )

    def __init__(self, connection: Connection, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self.keep_alive = keep_alive
        self.over = False
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._scope = scope
        self._expects_continue = expects_continue
        self._chunks: list[bytes] = []
        self._size = 0
        self._more = True
        self._unread = False
        self._reader: asyncio.Future[None] | None = None
        self._head: list[bytes] = []
        self._parts: list[bytes] = []

    async def run(self) -> None:
        """Let the application answer; if it doesn't, the client gets no half reply for a whole one."""
        connection = self._connection
        try:
            await connection.app(self._scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001 - the application answers its own; this is the last resort
            log_fault(error, "(protocol)")
        finally:
            connection.tasks.discard(self.task)
            self._scope = {}  # it leads back here by way of what the application put into it
            if not self.over:
                self.end()
                connection.abort()

    async def receive(self) -> Message:
        """The next part of the body, or, once it was read, that the client left or the reply is sent."""
        if self._expects_continue:
            self._expects_continue = False
            self._connection.write(CONTINUE)
        if not self._unread and not self.over:
            if self._more:  # else only the next request could come, and it can wait
                self._connection.resume_reading()
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self.over:
            return DISCONNECT
        chunks, self._chunks, self._size, self._unread = self._chunks, [], 0, False
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def send(self, message: Message) -> None:
        """Take the head or a part of the body of the reply; it goes out when it is whole."""
        if self.over:
            return
        if message["type"] == "http.response.start":
            self._set_head(message)
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        connection = self._connection
        if connection.is_full and not await connection.drain():
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
        if self.over:
            return 0
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._wake()
        return self._size

    def feed_end(self) -> None:
        """The request is complete."""
        self._more = False
        self._wake()

    def end(self) -> None:
        """Nothing more comes of it."""
        self.over = True
        self._chunks = []
        self._head = []
        self._parts = []
        self._wake()

    def _set_head(self, message: Message) -> None:
        if self._expects_continue:  # and was not told to: whether a body comes now, nobody knows
            self.keep_alive = False
        head = [STATUS_LINES[message["status"]], *self._connection.default_head]
        for name, value in message["headers"]:
            if name == b"connection" and value == b"close":
                self.keep_alive = False
            elif name != b"content-length":
                head += (name, b": ", value, b"\r\n")
        if not self.keep_alive or self._connection.is_last():
            head.append(CLOSE)
        self._head = head

    def _wake(self) -> None:
        self._unread = True
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
