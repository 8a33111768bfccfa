"""A load generator that costs little: connections that each send their next request once the last reply is complete.

Locust makes some 1,000 requests a second, which is less than the service answers. This one is an asyncio protocol over
httptools' parser on uvloop, and does nothing for a reply but read its clock and its status; a sample is checked whole.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import orjson
import uvloop

from loadtest.load.client import OK, LoadError
from loadtest.load.replies import problem_of_reply

PATH = "/v1/nlu"
CHECK_EVERY = 61  # replies; a prime, so that in time the sample meets every text
EXPECTED_PER_SECOND = 50_000  # for which room is made beforehand; more still find some
WATCHES_PER_TIMEOUT = 4
NEVER = float("inf")  # when a connection that waits for no reply has sent its request
Check = Callable[[bytes, int, bytes], str | None]  # of a request's body, a reply's status and content: what is wrong


@dataclass(frozen=True)
class Measured:
    """What a load test found between warm-up and end.

    Attributes:
        seconds: how long was measured.
        latencies: seconds from sending a request to its complete reply, in order of the replies.
        failures: replies that were not as they should be, by reason, of the warm-up too.
        cpu_seconds: what the load generator itself used.
    """

    seconds: float
    latencies: array[float]
    failures: Counter[str]
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Replies a second."""
        return len(self.latencies) / self.seconds

    @property
    def cpu_share(self) -> float:
        """Which part of one core the load generator used, 0 to 1. Near 1 it, and not the server, was the limit."""
        return self.cpu_seconds / self.seconds

    def percentile(self, percent: float) -> float:
        """Latency in seconds below which `percent` of the replies stayed."""
        return float(np.percentile(self.latencies, percent))


def measure(
    url: str, bodies: Sequence[bytes], *, connections: int, seconds: float, warm_up: float = 0.0, **more: Any
) -> Measured:
    """Load a server for `warm_up` and then `seconds` seconds, over connections that are kept open.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        bodies: JSON bodies of requests, sent in turn, over and over, by whichever connection is free.
        connections: how many requests are under way at any time.
        seconds: how long is measured.
        warm_up: seconds before that, of which only failures count.
        more: as the attributes of `Run`.

    Raises:
        LoadError: the server can't be reached, closes a connection, does not answer, or answers no HTTP.
    """
    return Run(url, bodies, **more).measure(connections, seconds, warm_up)


@dataclass(eq=False)
class Run:
    """One measurement: what its connections share, and when they send.

    Attributes:
        url, bodies: as `measure`.
        reply_timeout: seconds for which a reply may keep a connection waiting.
        on_reply: called with the content of each good reply that is counted; its time is the load generator's.
        path: where the server answers.
        problem_of: what is wrong with a reply, for a server that does not answer in the service's form.
    """

    url: str
    bodies: Sequence[bytes]
    reply_timeout: float = 5.0
    on_reply: Callable[[bytes], None] | None = None
    path: str = PATH
    problem_of: Check | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        self.address = parts.hostname or "", parts.port or 80
        self.requests = itertools.cycle([(_request(parts.netloc, self.path, body), body) for body in self.bodies])
        self.sending = True
        self.counting = False
        self.count = 0
        self.latencies: array[float] = array("d")
        self.until_check = 1  # the first reply is checked, however short the measurement
        self.failures: Counter[str] = Counter()
        self.open: set[Connection] = set()

    def measure(self, connections: int, seconds: float, warm_up: float) -> Measured:
        """Load the server; see the module's `measure`."""
        gc.collect()
        gc.disable()  # a collection in the midst would stop all connections at once
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(self._measure(connections, seconds, warm_up))
        finally:
            gc.enable()

    async def _measure(self, connections: int, seconds: float, warm_up: float) -> Measured:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = loop.create_future()
        self.latencies = array("d", bytes(8 * round(EXPECTED_PER_SECOND * seconds)))
        watch = asyncio.create_task(self._watch())
        try:
            await self._connect(connections)
            self.begin()
            await self._pause(warm_up)
            self.counting, began, cpu = True, time.perf_counter(), time.thread_time()
            await self._pause(seconds)
            self.counting, took, cpu = False, time.perf_counter() - began, time.thread_time() - cpu
            self.sending = False
            self.end()
            await self.over
        finally:
            watch.cancel()
            for connection in self.open:
                connection.transport.abort()
        if not self.count:
            raise LoadError(f"{self.url} gave no reply in {took:.3g} s")
        return Measured(took, self.latencies[: self.count], self.failures, cpu)

    def begin(self) -> None:
        """Start to send; all connections are open."""
        for connection in [*self.open]:
            connection.send()

    def proceed(self, connection: Connection) -> None:
        """Go on with a connection whose reply is complete."""
        if self.sending:
            connection.send()
        else:
            connection.close()

    def end(self) -> None:
        """Send no more: each connection closes with its last reply."""

    def record(self, latency: float) -> None:
        """Count a reply."""
        if self.count < len(self.latencies):
            self.latencies[self.count] = latency
        else:
            self.latencies.append(latency)
        self.count += 1

    def check(self, status: int, body: bytes, content: bytes) -> None:
        """Check a reply whole."""
        self.until_check = CHECK_EVERY
        if problem := (self.problem_of or _problem_of_nlu)(body, status, content):
            self.failures[problem] += 1

    def fail(self, sentence: str) -> None:
        """Give up; the sentence goes on from the server's URL."""
        if not self.over.done():
            self.over.set_exception(LoadError(f"{self.url} {sentence}"))

    def leave(self, connection: Connection) -> None:
        """A connection is closed."""
        self.open.discard(connection)
        if not self.open and not self.over.done():
            self.over.set_result(None)

    async def _connect(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.reply_timeout):
                for _ in range(connections):
                    await loop.create_connection(lambda: Connection(self), *self.address)
        except OSError as error:  # a timeout is one too
            raise LoadError(f"{self.url} can't be reached ({error or 'timeout'})") from None

    async def _pause(self, seconds: float) -> None:
        """Let the connections work, unless they fail."""
        await asyncio.wait([self.over], timeout=seconds)
        if self.over.done():
            self.over.result()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.reply_timeout / WATCHES_PER_TIMEOUT)
            oldest = min((connection.began for connection in self.open), default=NEVER)
            if time.perf_counter() - oldest > self.reply_timeout:
                self.fail(f"gave no reply within {self.reply_timeout:g} s")


class Connection(asyncio.Protocol):
    """One connection: a request, its reply, the next request."""

    transport: asyncio.Transport

    def __init__(self, run: Run) -> None:
        self.run = run
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.content = b""
        self.began = NEVER
        self.finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass
        self.run.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.run.fail(f"sent something that is no HTTP reply ({error})")
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """It is closed, by either side."""
        if not self.finished:
            after = "".join(f", after {problem}" for problem, _ in self.run.failures.most_common(1))
            self.run.fail(f"closed a connection in the midst of the load{after}")
        self.run.leave(self)

    def on_body(self, chunk: bytes) -> None:
        """Part of a reply's content (called by the parser)."""
        self.content += chunk

    def on_message_complete(self) -> None:
        """A reply is complete (called by the parser)."""
        run = self.run
        if run.counting:
            run.record(time.perf_counter() - self.began)
        run.until_check -= 1
        status = self.parser.get_status_code()
        if not run.until_check or status != OK:
            run.check(status, self.body, self.content)
        if run.on_reply and run.counting and status == OK:
            run.on_reply(self.content)
        run.proceed(self)

    def send(self, due: float | None = None) -> None:
        """Send the next request, which was due earlier if that is given."""
        request, self.body = next(self.run.requests)
        self.content = b""
        self.began = time.perf_counter() if due is None else due
        self.transport.write(request)

    def close(self) -> None:
        """Send no more."""
        self.finished = True
        self.transport.close()


def _problem_of_nlu(body: bytes, status: int, content: bytes) -> str | None:
    """Of the service's reply: its JSON, its labels, the spans of its slots."""
    return problem_of_reply([orjson.loads(body)["text"]], False, status, content)


def _request(host: str, path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
