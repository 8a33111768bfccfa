"""A service in a process of its own, what the system says of that process, and a load that costs little to make."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from threading import get_native_id
from typing import Any, NamedTuple, Self, TypeVar, cast

import httptools
import numpy as np
import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from loadtest.load.target import on_cores, usable_cores

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
TICK_SECONDS = 0.001  # of the schedule: the load sends what has fallen due, then looks at its sockets

Result = TypeVar("Result")

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


class Reply(NamedTuple):
    """A reply of the service."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Server:
    """``python -m service`` with one worker on a free port, from its first answer until the end of the ``with`` block.

    Usage::

        with Server("--students", str(students)) as server:
            server.ask("GET", "/livez")
            assert server.stop() == 0
    """

    def __init__(self, *arguments: str, cores: Collection[int] | None = None) -> None:
        flags = ["--workers", "1", "--drain-delay", "0", "--port", "0", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NLU_")}
        self._exits = ExitStack()
        # a file: nobody reads along, and a pipe that is full would stop the service
        self._log = self._exits.enter_context(tempfile.NamedTemporaryFile("w+"))  # noqa: SIM115
        with on_cores(cores):
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", *flags],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=environment,
            )
        self._exits.callback(self._end)

    def __enter__(self) -> Self:
        """Wait for the service to say that its students are loaded."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"Address: .*:(\d+)$", line):
                self.port = int(found[1])
                return self
        said = self.log()
        self._exits.close()
        raise AssertionError(f"the service did not start: {said}")

    def __exit__(self, *_: object) -> None:
        """Kill the process if it still runs."""
        self._exits.close()

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request on a connection of its own. Bytes go as they are, anything else as JSON."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request(method, path, content, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of ``/metrics`` by its name and labels."""
        families = text_string_to_metric_families(self.ask("GET", "/metrics").content.decode())
        samples = [sample for family in families for sample in family.samples]
        return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have this name and these labels."""
        wanted = labels.items()
        return sum(value for (found, given), value in self.metrics().items() if found == name and wanted <= given)

    def sockets(self) -> int:
        """Sockets that the service holds open, listening ones included."""
        return sum(
            name.startswith("socket:") for pid in self._family() for name in _links(Path(f"/proc/{pid}/fd").iterdir())
        )

    def threads(self) -> int:
        """Threads of the service."""
        return sum(int(_status(pid, "Threads")) for pid in self._family())

    def resident(self) -> int:
        """Bytes of memory that the service holds."""
        return sum(int(_status(pid, "VmRSS")) * 1024 for pid in self._family())

    def hindered(self) -> float:
        """Seconds for which the service has waited, ready to run, while other work had its core."""
        return sum(_hindered(task) for pid in self._family() for task in Path(f"/proc/{pid}/task").iterdir())

    def log(self) -> str:
        """What the service has written to standard error."""
        return Path(self._log.name).read_text()

    def stop(self) -> int:
        """Ask the process to stop; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def _family(self) -> list[int]:
        """The process and those that it has started."""
        found = [self.process.pid]
        for pid in found:  # grows meanwhile
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return found

    def _end(self) -> None:
        self.process.kill()
        self.process.communicate()


def _links(paths: Iterator[Path]) -> Iterator[str]:
    for path in paths:
        try:
            yield os.readlink(path)
        except FileNotFoundError:  # closed since it was listed
            continue


def _status(pid: int, name: str) -> str:
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _hindered(task: Path) -> float:
    return int((task / "schedstat").read_text().split()[1]) / 1e9


def hindered() -> float:
    """As `Server.hindered`, for this thread."""
    return _hindered(Path(f"/proc/self/task/{get_native_id()}"))


def two_cores() -> tuple[int, int]:
    """A core for the service and another for the load. Skips the test where there is only one."""
    cores = usable_cores()
    if len(cores) < 2:
        pytest.skip("needs two cores: one for the service, one for the load")
    return cores[0], cores[-1]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent of the values lie."""
    return float(np.percentile(np.asarray(values), percent))


class Taken(NamedTuple):
    """What a load found. Times are in seconds.

    Attributes:
        seconds: how long requests were sent.
        sent: requests; each was answered.
        moments: by status, when each request was due, from the start of the load.
        latencies: by status, from when each request was due to its complete reply, in the order of `moments`.
        unasked: replies with 429 that did not say when to come again.
        lateness: of each request, from when it was due to when it was sent.
    """

    seconds: float
    sent: int
    moments: dict[int, array[float]]
    latencies: dict[int, array[float]]
    unasked: int
    lateness: array[float]

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return len(self.latencies[200]) / self.seconds


class Load:
    """Connections that are kept open, and the requests that are sent on them.

    Usage::

        async with Load(port, bodies, connections=32) as load:
            capacity = await load.closed(seconds=3)
            overload = await load.open(3 * capacity.per_second, seconds=5)
    """

    def __init__(self, port: int, bodies: Sequence[bytes], connections: int) -> None:
        self._port = port
        self._requests = [_request(body) for body in bodies]
        self._count = connections
        self._connections: list[_Connection] = []
        self._idle: deque[_Connection] = deque()  # used in turn, so that none is idle for so long that it is closed
        self._due: deque[float] = deque()  # requests for which no connection is free
        self._closed = False
        self._begin()

    async def __aenter__(self) -> Self:
        """Open the connections."""
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            _, connection = await loop.create_connection(lambda: _Connection(self._answered), "127.0.0.1", self._port)
            self._connections.append(connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.transport.close()
        await asyncio.gather(*(connection.closed.wait() for connection in self._connections))

    async def closed(self, seconds: float) -> Taken:
        """Send the next request on each connection once its last reply is complete."""
        self._begin()
        self._closed = True
        self._idle.clear()
        for connection in self._connections:
            self._send(connection, self._began)
        await asyncio.sleep(seconds)
        self._closed = False
        return await self._end()

    async def open(self, per_second: float, seconds: float, each_second: Callable[[], None] | None = None) -> Taken:
        """Send requests by a schedule, whatever has become of those before.

        A request for which no connection is free waits here, and counts from when it was due. `each_second` is called
        about once a second.
        """
        self._begin()
        called = 0
        while (now := time.perf_counter() - self._began) < seconds:
            while (due := self._sent / per_second) <= now:
                self._sent += 1
                if self._idle:
                    self._send(self._idle.popleft(), self._began + due)
                else:
                    self._due.append(self._began + due)
            if each_second is not None and now >= called:
                called += 1
                each_second()
            await asyncio.sleep(TICK_SECONDS)
        return await self._end()

    def _begin(self) -> None:
        self._idle = deque(self._connections)
        self._sent = 0
        self._unasked = 0
        self._moments: dict[int, array[float]] = {200: array("d")}
        self._latencies: dict[int, array[float]] = {200: array("d")}
        self._lateness = array("d")
        self._finished = asyncio.Event()
        self._began = time.perf_counter()

    async def _end(self) -> Taken:
        seconds = time.perf_counter() - self._began
        async with asyncio.timeout(PATIENCE):
            while len(self._idle) < len(self._connections):
                self._finished.clear()
                await self._finished.wait()
        assert not any(connection.closed.is_set() for connection in self._connections)
        return Taken(seconds, len(self._lateness), self._moments, self._latencies, self._unasked, self._lateness)

    def _send(self, connection: _Connection, due: float) -> None:
        self._lateness.append(time.perf_counter() - due)
        connection.send(self._requests[len(self._lateness) % len(self._requests)], due)

    def _answered(self, connection: _Connection, status: int, comes_again: bool) -> None:
        now = time.perf_counter()
        if status not in self._latencies:
            self._moments[status], self._latencies[status] = array("d"), array("d")
        self._moments[status].append(connection.due - self._began)
        self._latencies[status].append(now - connection.due)
        self._unasked += status == 429 and not comes_again
        if self._closed:
            self._send(connection, now)
        elif self._due:
            self._send(connection, self._due.popleft())
        else:
            self._idle.append(connection)
            self._finished.set()


class _Connection(asyncio.Protocol):
    """One connection of a load: a request, its reply, the next request."""

    transport: asyncio.Transport

    def __init__(self, answered: Callable[[_Connection, int, bool], None]) -> None:
        self.due = 0.0
        self.closed = asyncio.Event()
        self._answered = answered
        self._comes_again = False
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._comes_again = False
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the reply (called by the parser)."""
        self._comes_again |= name == b"retry-after" and value.isdigit()

    def on_message_complete(self) -> None:
        """The reply is complete (called by the parser)."""
        self._answered(self, self._parser.get_status_code(), self._comes_again)


def run(work: Awaitable[Result]) -> Result:
    """Run a load to its end, undisturbed by the collector."""
    gc.collect()
    gc.disable()  # a collection in the midst would stop all connections at once
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(cast(Any, work))
    finally:
        gc.enable()


def _request(body: bytes) -> bytes:
    head = (
        "POST /v1/nlu HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
