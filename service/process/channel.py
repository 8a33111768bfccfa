"""The channel between a worker and its supervisor."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypedDict

from service.errors import ENDINGS, log_fault

MAX_LINE_BYTES = 1 << 22
BEATS = 4  # heartbeats of a worker in the time after which it is replaced

Json = dict[str, Any]
Reload = Callable[[], Awaitable[Json]]
Announce = Callable[[Sequence["Report"]], None]


class StartError(Exception):
    """The service can't start; the message is one sentence."""


class ReloadError(Exception):
    """A process could not reload; the message is the error's type, and its log has the details."""


class Report(TypedDict):
    """The students that a worker has loaded, and the reasons why it is not ready, if any."""

    students: list[str]
    reasons: list[str]


class Channel:
    """One end of the channel: JSON objects, one a line.

    Either end requests a reload with ``{"reload": 7}``; the reply is ``{"reloaded": 7, "outcome": {...}}`` or
    ``{"reloaded": 7, "failed": "OSError"}``. A worker requests it of all workers, the supervisor of that worker alone.
    A worker also sends ``{"loaded": Report}`` when its students are loaded, or ``{"refused": "reason"}`` if it can't
    start, and ``{"alive": true}`` as its heartbeat.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._pending: dict[int, asyncio.Future[Json]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @classmethod
    async def open(cls, end: socket.socket) -> Channel:
        """Take over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MAX_LINE_BYTES))

    def send(self, **message: object) -> None:
        """Send a message. It is lost if the other end has closed."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def reload(self) -> Json:
        """Request a reload of the other end and wait for the outcome.

        Raises:
            ReloadError: the reload failed.
            ConnectionError: the other end has closed, or closes before its reply.
        """
        if self._is_closed:
            raise ConnectionResetError
        number = next(self._numbers)
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        self.send(reload=number)
        outcome: Json = await answer
        return outcome

    async def listen(self, reload: Reload, receive: Callable[[Json], None] = lambda _: None) -> None:
        """Handle messages until the other end closes: run reloads, take replies, pass the rest to `receive`."""
        while line := await self._read():
            message = json.loads(line)
            if "reload" in message:
                answering = asyncio.create_task(self._answer(message["reload"], reload))
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)
            elif "reloaded" in message:
                failed = message.get("failed")
                self._settle(message["reloaded"], ReloadError(failed) if failed else message["outcome"])
            else:
                receive(message)
        self._cancel_all()

    async def close(self) -> None:
        """Send what is buffered, then close."""
        self._cancel_all()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self) -> bytes:
        """The next line; empty at the end, also if the other end died within a line."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return b""
        return line if line.endswith(b"\n") else b""

    async def _answer(self, number: int, reload: Reload) -> None:
        try:
            self.send(reloaded=number, outcome=await reload())
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - the other end waits for a reply
            log_fault(error, "(reload)")
            self.send(reloaded=number, failed=type(error).__name__)

    def _cancel_all(self) -> None:
        self._is_closed = True
        for number in list(self._pending):
            self._settle(number, ConnectionResetError())

    def _settle(self, number: int, answer: Json | Exception) -> None:
        pending = self._pending.pop(number)
        if pending.done():  # cancelled
            return
        if isinstance(answer, Exception):
            pending.set_exception(answer)
        else:
            pending.set_result(answer)
