"""The channel between a worker and its supervisor."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypedDict

from service.errors import log_fault

MAX_LINE_BYTES = 1 << 22

Json = dict[str, Any]
Reload = Callable[[], Awaitable[Json]]
Greet = Callable[[Sequence["Report"]], None]


class StartError(Exception):
    """The service can't start; the message is one sentence for the person who started it."""


class ReloadError(Exception):
    """A process could not reload; the message is the kind of error, its own log has the rest."""


class Report(TypedDict):
    """What a worker serves once its students are loaded, and why it isn't ready, if it isn't."""

    students: list[str]
    reasons: list[str]


class Channel:
    """One end of the channel: JSON objects, one a line.

    Either end asks the other to reload with ``{"reload": 7}`` and is answered ``{"reloaded": 7, "outcome": {...}}``, or
    ``{"reloaded": 7, "failed": "OSError"}``: a worker asks for all workers, the supervisor for that worker alone. A
    worker also sends ``{"loaded": Report}`` when its students are loaded, or ``{"refused": "sentence"}`` if it can't
    start.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Json]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @classmethod
    async def open(cls, end: socket.socket) -> Channel:
        """Take over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MAX_LINE_BYTES))

    def tell(self, **message: object) -> None:
        """Send a message; it is lost if the other end has closed."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def reload(self) -> Json:
        """Ask the other end to reload and wait for the outcome.

        Raises:
            ReloadError: it can't.
            ConnectionError: it has closed, or closes before it answers.
        """
        if self._is_closed:
            raise ConnectionResetError
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell(reload=number)
        outcome: Json = await answer
        return outcome

    async def converse(self, reload: Reload, receive: Callable[[Json], None] = lambda _: None) -> None:
        """Until the other end closes: reload when asked to, take answers, and pass other messages to `receive`."""
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
        """The next line; nothing at the end, even if a death cut a line short."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return b""
        return line if line.endswith(b"\n") else b""

    async def _answer(self, number: int, reload: Reload) -> None:
        try:
            self.tell(reloaded=number, outcome=await reload())
        except Exception as error:  # noqa: BLE001 - the other end waits for an answer
            log_fault(error, "(reload)")
            self.tell(reloaded=number, failed=type(error).__name__)

    def _cancel_all(self) -> None:
        self._is_closed = True
        for number in list(self._asked):
            self._settle(number, ConnectionResetError())

    def _settle(self, number: int, answer: Json | Exception) -> None:
        asked = self._asked.pop(number)
        if asked.done():  # cancelled
            return
        if isinstance(answer, Exception):
            asked.set_exception(answer)
        else:
            asked.set_result(answer)
