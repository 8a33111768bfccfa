"""The end of a connection whose client may still be sending."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.server import ServerState

MAX_LINGER_BYTES = 1 << 22
LINGER_SECONDS = 2.0


class Lingering(asyncio.Protocol):
    """Takes over a connection after its last reply and drops what still arrives, until the client closes its side.

    If the service closed at once, the kernel would reset the connection when more arrives, and the client could lose
    the reply. Nothing is parsed; after `MAX_LINGER_BYTES` or `LINGER_SECONDS` the service closes all the same.
    """

    def __init__(self, transport: asyncio.Transport, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._connections = cast("set[Any]", state.connections)  # uvicorn waits for them before it stops
        self._connections.add(self)
        self._bytes_left = MAX_LINGER_BYTES
        self._timer = loop.call_later(LINGER_SECONDS, transport.abort)
        transport.set_protocol(self)
        transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Drop what the client sends."""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - part of asyncio's signature
        """The connection is closed."""
        self._timer.cancel()
        self._connections.discard(self)

    def shutdown(self) -> None:
        """Called by uvicorn when the service stops: the end is near anyway."""
