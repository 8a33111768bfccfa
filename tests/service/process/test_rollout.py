"""A new version takes over from an old one behind a proxy, and no request is lost."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.service.server import Server

BODY = json.dumps({"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}).encode()
HEAD = b"POST /v1/nlu HTTP/1.1\r\nhost: nlu\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
REQUEST = HEAD + BODY
PROBE = b"GET /readyz HTTP/1.1\r\nhost: nlu\r\nconnection: close\r\n\r\n"
PROBE_SECONDS = 0.05
CLIENTS = 8


class Upstream:
    """One instance of the service as a proxy sees it: ready or not, with connections that are kept for reuse."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.ready = False
        self.answered = 0
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def forward(self, request: bytes) -> tuple[int, bytes]:
        """Send a request, on a kept connection if there is one, and return the reply's status and body."""
        connection = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        connection[1].write(request)
        status, headers, body = await read_reply(connection[0])
        if headers.get(b"connection") == b"close":
            await close_writer(connection[1])
        else:
            self._idle.append(connection)
        self.answered += 1
        return status, body

    async def watch(self) -> None:
        """Check its readiness repeatedly, as a load balancer does."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.ready = False
            else:
                writer.write(PROBE)
                try:
                    self.ready = (await read_reply(reader))[0] == 200
                except (OSError, EOFError):
                    self.ready = False
                finally:
                    await close_writer(writer)
            await asyncio.sleep(PROBE_SECONDS)  # the balancer's period, not a wait of this test

    async def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            await close_writer(writer)


class Proxy:
    """Round robin over the instances that are ready. It never retries: what an instance loses is lost."""

    def __init__(self) -> None:
        self.upstreams: list[Upstream] = []
        self._watching: list[asyncio.Task[None]] = []
        self._next = 0

    def add(self, server: Server) -> Upstream:
        """Send requests to an instance from now on, whenever it is ready."""
        upstream = Upstream(server.port)
        self.upstreams.append(upstream)
        self._watching.append(asyncio.create_task(upstream.watch()))
        return upstream

    async def forward(self, request: bytes) -> tuple[int, bytes]:
        """Send a request to the instance whose turn it is."""
        ready = [upstream for upstream in self.upstreams if upstream.ready]
        self._next += 1
        return await ready[self._next % len(ready)].forward(request)

    async def close(self) -> None:
        """Stop watching."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for upstream in self.upstreams:
            await upstream.close()


class PassiveProxy:
    """Round robin over all instances, without health checks. It tries the next one if a connection is refused."""

    def __init__(self, *ports: int) -> None:
        self._ports = ports
        self._next = 0

    async def forward(self, request: bytes) -> int:
        """Send a request on a new connection to the instance whose turn it is, and return the reply's status."""
        self._next += 1
        turn = self._next % len(self._ports)
        for port in (*self._ports[turn:], *self._ports[:turn]):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                continue
            writer.write(request)
            status, *_ = await read_reply(reader)
            await close_writer(writer)
            return status
        raise ConnectionRefusedError


async def close_writer(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers[b"content-length"]))


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def start(students: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def begin(*arguments: str) -> Server:
            server = Server("--students", str(students), "--drain-delay", "0.5", *arguments)
            return stack.enter_context(server)

        yield begin


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rolling_restart_behind_a_proxy_loses_no_request(start: Any, workers: str) -> None:
    old, new = start("--workers", workers), start("--workers", workers)
    replies: list[int] = []

    async def roll_out() -> tuple[Upstream, Upstream, int]:
        proxy = Proxy()
        stop = asyncio.Event()

        async def ask_until_stopped() -> None:
            while not stop.is_set():
                replies.append((await proxy.forward(REQUEST))[0])

        first = proxy.add(old)
        await until(lambda: first.ready)
        asking = [asyncio.create_task(ask_until_stopped()) for _ in range(CLIENTS)]
        second = proxy.add(new)
        await until(lambda: first.answered > 200 and second.answered > 200)
        old.process.send_signal(signal.SIGTERM)
        at_signal = first.answered
        await until(lambda: old.process.poll() is not None)
        while_draining = first.answered - at_signal
        before = second.answered
        await until(lambda: second.answered > before + 200)
        stop.set()
        await asyncio.gather(*asking)
        await proxy.close()
        return first, second, while_draining

    first, second, while_draining = asyncio.run(roll_out())

    assert set(replies) == {200}
    assert len(replies) == first.answered + second.answered
    assert old.process.returncode == 0
    assert while_draining > 0  # it answered until the proxy had noticed


def test_rolling_restart_behind_a_proxy_without_health_checks_loses_no_request(start: Any) -> None:
    old, other = start(), start()
    replies: list[int] = []

    async def restart() -> None:
        proxy = PassiveProxy(old.port, other.port)
        stop = asyncio.Event()

        async def ask_until_stopped() -> None:
            while not stop.is_set():
                replies.append(await proxy.forward(REQUEST))

        asking = [asyncio.create_task(ask_until_stopped()) for _ in range(CLIENTS)]
        await until(lambda: len(replies) > 200)
        old.process.send_signal(signal.SIGTERM)
        await until(lambda: old.process.poll() is not None)
        await asyncio.to_thread(start, "--port", str(old.port))  # at the same port, at once
        enough = len(replies) + 200
        await until(lambda: len(replies) > enough)
        stop.set()
        await asyncio.gather(*asking)

    asyncio.run(restart())

    assert set(replies) == {200}
