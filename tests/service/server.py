"""A service in a process of its own, measurements of that process, and a load generator that costs little."""

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
from contextlib import ExitStack, closing, suppress
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
TICK_SECONDS = 0.001  # of the schedule: the load sends the requests that are due, then serves its sockets

Result = TypeVar("Result")

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


class Reply(NamedTuple):
    """A reply of the service."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Server:
    """``python -m service`` with one worker on a free port, killed at the end of the ``with`` block.

    Usage::

        with Server("--students", str(students)) as server:
            server.ask("GET", "/livez")
            assert server.stop() == 0

    `program` is Python code that is run in place of ``-m service``, with the same arguments.
    """

    def __init__(self, *arguments: str, cores: Collection[int] | None = None, program: str | None = None) -> None:
        flags = ["--workers", "1", "--drain-delay", "0", "--port", "0", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NLU_")}
        self._exits = ExitStack()
        # a file, since a full pipe would stop the service
        self._log = self._exits.enter_context(tempfile.NamedTemporaryFile("w+"))  # noqa: SIM115
        with on_cores(cores):
            self.process = subprocess.Popen(
                [sys.executable, *(("-m", "service") if program is None else ("-c", program)), *flags],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=environment,
            )
        self._exits.callback(self._end)

    def __enter__(self) -> Self:
        """Wait until the students are loaded."""
        with ExitStack() as on_error:
            on_error.push(self.__exit__)
            self.announcement()
            on_error.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process if it still runs."""
        self._exits.close()

    def announcement(self) -> list[str]:
        """The lines that the service prints once its students are loaded."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().rstrip() for _ in range(5)]
        assert lines[-1], f"the service did not start: {self.log()}"
        self.port = int(lines[1].rpartition(":")[2])
        return lines

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request on a new connection. A body of bytes is sent unchanged, any other is converted to JSON."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        typed = {} if body is None else {"content-type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request(method, path, content, {**typed, **(headers or {})})
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
        return sum(value for (sample, has), value in self.metrics().items() if sample == name and wanted <= has)

    def sockets(self) -> int:
        """The number of the service's open sockets, listening ones included."""
        return sum(name.startswith("socket:") for pid in self._pids() for name in _links(pid))

    def threads(self) -> int:
        """The number of the service's threads."""
        return sum(_status(pid, "Threads") for pid in self._pids())

    def resident(self) -> int:
        """The service's resident memory, in bytes."""
        return sum(_status(pid, "VmRSS") * 1024 for pid in self._pids())

    def core_wait(self) -> float:
        """Seconds for which the service's threads, ready to run, have waited for a core."""
        return sum(_core_wait(task) for pid in self._pids() for task in _tasks(pid))

    def log(self) -> str:
        """The service's standard error so far."""
        return Path(self._log.name).read_text()

    def children(self) -> set[int]:
        """The ids of its worker processes, until it has reaped them."""
        return set(_children(self.process.pid))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to stop; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def _pids(self) -> list[int]:
        """The process and its descendants."""
        pids = [self.process.pid]
        for pid in pids:  # grows in the loop
            pids += _children(pid)
        return pids

    def _end(self) -> None:
        self.process.kill()
        self.process.communicate()


# Processes and threads may end while they are looked at: they then count as gone.


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _children(pid: int) -> Iterator[int]:
    for task in _tasks(pid):
        yield from map(int, _read(task / "children").split())


def _links(pid: int) -> Iterator[str]:
    with suppress(FileNotFoundError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                yield os.readlink(path)


def _status(pid: int, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+)", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)
    return int(match[1]) if match else 0


def _core_wait(task: Path) -> float:
    fields = _read(task / "schedstat").split()
    return int(fields[1]) / 1e9 if fields else 0.0


def core_wait() -> float:
    """As `Server.core_wait`, for this thread."""
    return _core_wait(Path(f"/proc/self/task/{get_native_id()}"))


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def two_cores() -> tuple[int, int]:
    """A core for the load and another for the service. Skips the test if there is only one."""
    cores = usable_cores()
    if len(cores) < 2:
        pytest.skip("needs two cores: one for the service, one for the load")
    return cores[0], cores[-1]


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of some values."""
    return float(np.percentile(np.asarray(values), percent))


class LoadResult(NamedTuple):
    """The measurements of a load. Times are in seconds.

    Attributes:
        seconds: time in which requests were sent.
        sent: number of requests; each was answered.
        moments: by status, when each request was due, from the start of the load.
        latencies: by status, from when each request was due to its complete reply, in the order of `moments`.
        without_retry_after: number of replies with 429 that lack the header.
        lateness: of each request, from when it was due to when it was sent.
    """

    seconds: float
    sent: int
    moments: dict[int, array[float]]
    latencies: dict[int, array[float]]
    without_retry_after: int
    lateness: array[float]

    @property
    def per_second(self) -> float:
        """Successful answers a second."""
        return len(self.latencies[200]) / self.seconds


class Load:
    """A load on connections that stay open.

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
        self._idle: deque[_Connection] = deque()  # used in turn, so that none is closed for being idle
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

    async def closed(self, seconds: float) -> LoadResult:
        """Send the next request on each connection once its last reply is complete."""
        self._begin()
        self._closed = True
        self._idle.clear()
        for connection in self._connections:
            self._send(connection, self._began)
        await asyncio.sleep(seconds)
        self._closed = False
        return await self._end()

    async def open(self, rate: float, seconds: float, each_second: Callable[[], None] | None = None) -> LoadResult:
        """Send requests at a constant rate, independent of the replies.

        A request for which no connection is free waits here; its latency counts from when it was due. `each_second` is
        called about once a second.
        """
        self._begin()
        called = 0
        while (now := time.perf_counter() - self._began) < seconds:
            while (due := self._sent / rate) <= now:
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
        self._without_retry_after = 0
        self._moments: dict[int, array[float]] = {200: array("d")}
        self._latencies: dict[int, array[float]] = {200: array("d")}
        self._lateness = array("d")
        self._finished = asyncio.Event()
        self._began = time.perf_counter()

    async def _end(self) -> LoadResult:
        seconds = time.perf_counter() - self._began
        async with asyncio.timeout(PATIENCE):
            while len(self._idle) < len(self._connections):
                self._finished.clear()
                await self._finished.wait()
        assert not any(connection.closed.is_set() for connection in self._connections)
        sent, without = len(self._lateness), self._without_retry_after
        return LoadResult(seconds, sent, self._moments, self._latencies, without, self._lateness)

    def _send(self, connection: _Connection, due: float) -> None:
        self._lateness.append(time.perf_counter() - due)
        connection.send(self._requests[len(self._lateness) % len(self._requests)], due)

    def _answered(self, connection: _Connection, status: int, has_retry_after: bool) -> None:
        now = time.perf_counter()
        if status not in self._latencies:
            self._moments[status], self._latencies[status] = array("d"), array("d")
        self._moments[status].append(connection.due - self._began)
        self._latencies[status].append(now - connection.due)
        self._without_retry_after += status == 429 and not has_retry_after
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
        self._has_retry_after = False
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._has_retry_after = False
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the reply (called by the parser)."""
        self._has_retry_after |= name == b"retry-after" and value.isdigit()

    def on_message_complete(self) -> None:
        """The reply is complete (called by the parser)."""
        self._answered(self, self._parser.get_status_code(), self._has_retry_after)


def run(work: Awaitable[Result]) -> Result:
    """Run a load to its end, without garbage collection."""
    gc.collect()
    gc.disable()  # a collection would stop all connections at once
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
