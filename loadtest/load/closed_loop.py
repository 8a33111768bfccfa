"""A fast closed-loop load generator: each connection sends its next request once the last reply is complete.

Locust sends about 1,000 requests a second, less than the service can answer. This one is an asyncio protocol with
httptools' parser on uvloop. For most replies it only reads the clock and the status; a sample is checked completely.
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
CHECK_EVERY = 61  # replies; a prime, so that the sample covers every text in time
EXPECTED_PER_SECOND = 50_000  # replies for which memory is preallocated; more are allowed
WATCHES_PER_TIMEOUT = 4
NEVER = float("inf")  # send time of a connection without a request in flight
Check = Callable[[bytes, int, bytes], str | None]  # (request body, status, reply content) -> problem or None


@dataclass(frozen=True)
class Measured:
    """The result of a load test, without the warm-up.

    Attributes:
        seconds: duration of the measurement.
        latencies: seconds from sending a request to its complete reply, in order of the replies.
        failures: invalid replies by reason, including those of the warm-up.
        cpu_seconds: CPU time of the load generator.
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
        """The share of one core that the load generator used, 0 to 1. Near 1 the generator was the bottleneck."""
        return self.cpu_seconds / self.seconds

    def percentile(self, percent: float) -> float:
        """A percentile of the latencies, in seconds."""
        return float(np.percentile(self.latencies, percent))


def measure(
    url: str, bodies: Sequence[bytes], *, connections: int, seconds: float, warm_up: float = 0.0, **more: Any
) -> Measured:
    """Load a server over persistent connections.

    Args:
        url: URL of the server, such as ``http://127.0.0.1:8000``.
        bodies: JSON bodies of requests, sent cyclically by the next free connection.
        connections: number of connections, and so of requests in flight.
        seconds: duration of the measurement.
        warm_up: seconds before the measurement, of which only failures count.
        more: further attributes of `LoadRun`.

    Raises:
        LoadError: the server can't be reached, closes a connection, does not reply, or does not speak HTTP.
    """
    return LoadRun(url, bodies, **more).measure(connections, seconds, warm_up)


@dataclass(eq=False)
class LoadRun:
    """One measurement: the state that its connections share.

    Attributes:
        url, bodies: see `measure`.
        reply_timeout: maximum time for a reply, in seconds.
        on_reply: called with the content of each successful reply of the measurement; its time adds to the generator's.
        path: path of the endpoint.
        problem_of: check of a reply, for servers with another reply format than the service's.
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
        self.until_check = 1  # the first reply is always checked
        self.failures: Counter[str] = Counter()
        self.open: set[Connection] = set()

    def measure(self, connections: int, seconds: float, warm_up: float) -> Measured:
        """Load the server; see the module's `measure`."""
        gc.collect()
        gc.disable()  # a collection would pause all connections
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
        """Start to send, once all connections are open."""
        for connection in [*self.open]:
            connection.send()

    def proceed(self, connection: Connection) -> None:
        """Continue with a connection whose reply is complete."""
        if self.sending:
            connection.send()
        else:
            connection.close()

    def end(self) -> None:
        """Stop sending; each connection closes after its last reply."""

    def record(self, latency: float) -> None:
        """Count a reply."""
        if self.count < len(self.latencies):
            self.latencies[self.count] = latency
        else:
            self.latencies.append(latency)
        self.count += 1

    def check(self, status: int, body: bytes, content: bytes) -> None:
        """Check a reply completely."""
        self.until_check = CHECK_EVERY
        if problem := (self.problem_of or _problem_of_nlu)(body, status, content):
            self.failures[problem] += 1

    def fail(self, sentence: str) -> None:
        """End the measurement with an error; the sentence follows the server's URL."""
        if not self.over.done():
            self.over.set_exception(LoadError(f"{self.url} {sentence}"))

    def leave(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self.open.discard(connection)
        if not self.open and not self.over.done():
            self.over.set_result(None)

    async def _connect(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.reply_timeout):
                for _ in range(connections):
                    await loop.create_connection(lambda: Connection(self), *self.address)
        except OSError as error:  # includes TimeoutError
            raise LoadError(f"{self.url} can't be reached ({error or 'timeout'})") from None

    async def _pause(self, seconds: float) -> None:
        """Wait, or raise the error of a failed connection."""
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

    def __init__(self, run: LoadRun) -> None:
        self.run = run
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.content = b""
        self.began = NEVER
        self.finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transport is no subclass
        self.run.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse received data."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.run.fail(f"sent an invalid HTTP reply ({error})")
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """Report an unexpected end of the connection."""
        if not self.finished:
            after = "".join(f", after {problem}" for problem, _ in self.run.failures.most_common(1))
            self.run.fail(f"closed a connection during the measurement{after}")
        self.run.leave(self)

    def on_body(self, chunk: bytes) -> None:
        """Collect a part of the content (called by the parser)."""
        self.content += chunk

    def on_message_complete(self) -> None:
        """Record a complete reply and continue (called by the parser)."""
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
        """Send the next request; its latency counts from `due` if given."""
        request, self.body = next(self.run.requests)
        self.content = b""
        self.began = time.perf_counter() if due is None else due
        self.transport.write(request)

    def close(self) -> None:
        """Close the connection as intended."""
        self.finished = True
        self.transport.close()


def _problem_of_nlu(body: bytes, status: int, content: bytes) -> str | None:
    """Check a reply of the service: JSON, labels, spans of the slots."""
    return problem_of_reply([orjson.loads(body)["text"]], False, status, content)


def _request(host: str, path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
