"""Flow control of a connection: whether it reads from the client, and whether the client reads what is written."""

from __future__ import annotations

import asyncio


class FlowControl:
    """The flow of one connection in both directions.

    Attributes:
        is_paused: nothing is read, until what was received has been consumed.
        is_full: the write buffer is full, since the client reads more slowly than the service writes.
    """

    def __init__(self, transport: asyncio.Transport, max_full_seconds: float) -> None:
        self.is_paused = False
        self.is_full = False
        self._transport = transport
        self._max_full_seconds = max_full_seconds
        self._drained: asyncio.Future[None] | None = None

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        if not self.is_paused and not self._transport.is_closing():
            self.is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> bool:
        """Read again. False if reading was not paused, or the connection is closing."""
        if not self.is_paused or self._transport.is_closing():
            return False
        self.is_paused = False
        self._transport.resume_reading()
        return True

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self.is_full = True

    def resume_writing(self) -> None:
        """The write buffer has room again, or the client has disconnected."""
        self.is_full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drain(self) -> bool:
        """Wait for room in the write buffer. False if the client disconnects, or reads nothing for too long."""
        try:
            async with asyncio.timeout(self._max_full_seconds):
                while self.is_full:
                    self._drained = asyncio.get_running_loop().create_future()
                    await self._drained
        except TimeoutError:
            self._transport.abort()
        return not self._transport.is_closing()
