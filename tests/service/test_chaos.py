"""Ten thousand requests, valid, invalid and aborted, on many connections; then nothing may be left of them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Self

import orjson
import pytest
import uvloop

from tests.service.server import PATIENCE, Server, needs_proc, until

REQUESTS = 10_000
WARM_UP = 2_000
VISITORS = 150  # connections at any time
PERMITS = 48  # fewer than visitors, so that some are answered 429
MAX_BYTES = 1 << 14
SEED = "CHAOS_SEED"  # set it to the seed printed by a failure, to repeat the same requests
# A leak of 1 kB a request would be 10 MB. Some 2 to 4 MB are normal: the collector waits for 20,000 objects, and
# allocators keep freed memory.
MAX_GROWTH = 6 << 20
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST instead of FIN
WORDS = ["weck", "mich", "freitag", "um", "neun", "uhr", "berlin", "wetter", "musik", "😀", "e\u0301", "א"]
GARBAGE = [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"NONSENSE / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # how TLS begins
    b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
    b"POST /v1/nlu HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/nlu HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/nlu HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
    b"POST /v1/nlu HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nhello\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
WRONG_TYPES: list[Any] = [
    None,
    [],
    "text",
    7,
    {},
    {"text": None, "locale": "de-DE"},
    {"text": ["wetter"], "locale": "de-DE"},
    {"text": "wetter", "locale": 7},
    {"text": "wetter", "locale": "de-DE", "top_k": "3"},
    {"text": "wetter", "locale": "de-DE", "top_k": 0},
    {"text": "wetter", "locale": "de-DE", "top_k": 10**30},
    {"text": "wetter", "locale": "de-DE", "model": 1.5},
    {"text": "wetter", "locale": "de-DE", "shout": True},
    {"text": " ", "locale": "de-DE"},
    {"text": "a\0b", "locale": "de-DE"},
    {"text": "\ud800", "locale": "de-DE"},
]
SERVED, REFUSED = (200, 429), (422,)
FAULTS = re.compile(r".*(?:failed:|Traceback|never retrieved|destroyed|Exception|ERROR|CRITICAL).*")

Visit = Callable[["Visitor"], Awaitable[None]]


class Visitor:
    """A client: one connection at a time, with random behaviour."""

    reader: StreamReader
    writer: StreamWriter

    def __init__(self, port: int, dice: random.Random, seen: Counter[int]) -> None:
        self.port = port
        self.dice = dice
        self.seen = seen
        self.is_open = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def connect(self) -> None:
        """Open a connection, unless the last one is still usable."""
        if not self.is_open:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.is_open = True

    async def disconnect(self, *, reset: bool = False) -> None:
        """Close the connection."""
        if not self.is_open:
            return
        self.is_open = False
        if reset:
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.writer.transport.abort()  # closing would wait until the service has read everything
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def send(self, *parts: bytes) -> None:
        """Send bytes. If the service has closed the connection, its reply has the reason."""
        self.writer.write(b"".join(parts))

    async def pause(self) -> None:
        """Wait until the service has read its sockets: it has answered another client."""
        async with Visitor(self.port, self.dice, Counter()) as other:
            await other.connect()
            other.send(request("GET", "/livez"))
            await other.expect(200)

    async def read(self, request_id: str = "") -> tuple[int, bytes]:
        """The next reply, after checks of its form."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        if status == 100:
            return await self.read(request_id)
        self.seen[status] += 1
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        content = await self.reader.readexactly(int(headers[b"content-length"]))
        assert status == 400 or request_id.encode() in headers[b"x-request-id"]
        assert status < 400 or orjson.loads(content)["error"].keys() == {"code", "message", "request_id"}
        assert (status == 429) == (b"retry-after" in headers)
        if headers.get(b"connection") == b"close":
            assert await self.reader.read() == b""
            await self.disconnect()
        return status, content

    async def expect(self, *statuses: int, request_id: str = "") -> bytes:
        """The content of the next reply, whose status must be one of these."""
        status, content = await self.read(request_id)
        assert status in statuses, (status, content)
        return content


def request(method: str, path: str, body: bytes | None = None, *headers: str, version: str = "1.1") -> bytes:
    """A request; without a body if that is None."""
    lines = [f"{method} {path} HTTP/{version}", "host: localhost", *headers]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "\r\n"]).encode() + (body or b"")


def post(body: bytes, *headers: str, path: str = "/v1/nlu") -> bytes:
    """A POST of a body to the service."""
    return request("POST", path, body, *headers)


def chunked(dice: random.Random, body: bytes, path: str = "/v1/nlu") -> bytes:
    """Like `post`, in chunks."""
    cut = dice.randrange(1, len(body))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:], b""))
    return request("POST", path, None, "content-type: application/json", "transfer-encoding: chunked") + chunks


def item(dice: random.Random, **different: Any) -> dict[str, Any]:
    """A text of one to forty words."""
    return {"text": " ".join(dice.choices(WORDS, k=dice.randint(1, 40))), "locale": "de-DE", **different}


def good(dice: random.Random, **different: Any) -> bytes:
    """The body of a request for one text."""
    return orjson.dumps(item(dice, **different))


async def single(visitor: Visitor) -> None:
    """One text: as usual, chunked, with an Expect header, or by HTTP/1.0."""
    dice = visitor.dice
    body = good(dice, top_k=dice.choice([None, 1, 20]))
    visitor.send(
        dice.choice(
            [
                post(body),
                post(body),
                post(body, "connection: close"),
                post(body, "expect: 100-continue"),
                chunked(dice, body),
                request("POST", "/v1/nlu", body, version="1.0"),
            ]
        )
    )
    await visitor.expect(*SERVED)


async def batch(visitor: Visitor) -> None:
    """Several texts, some of them invalid."""
    dice = visitor.dice
    items = [dice.choice([item(dice), item(dice), item(dice, locale="xx"), dice.choice(WRONG_TYPES)]) for _ in range(9)]
    items = items[: dice.randint(1, 9)]
    visitor.send(post(json.dumps({"items": items}).encode(), path="/v1/nlu/batch"))
    status, content = await visitor.read()
    assert status in SERVED
    assert status == 429 or len(orjson.loads(content)["results"]) == len(items)


async def not_json(visitor: Visitor) -> None:
    """A body that is not JSON."""
    dice = visitor.dice
    body = good(dice)
    bodies = [b"", b"{", b"nul", body[:-1], body + b"}", b"\xff\xfe" + body, b"[" * 9999, b'{"text":"\\ud8', b"{" * 99]
    visitor.send(post(dice.choice(bodies), path=dice.choice(["/v1/nlu", "/v1/nlu/batch"])))
    await visitor.expect(*REFUSED)


async def wrong_types(visitor: Visitor) -> None:
    """JSON of wrong types."""
    visitor.send(post(json.dumps(visitor.dice.choice(WRONG_TYPES)).encode()))
    await visitor.expect(*REFUSED)


async def too_large(visitor: Visitor) -> None:
    """A body that is too large: sent, only declared, or chunked; or a batch that is too large."""
    dice = visitor.dice
    body = b" " * MAX_BYTES + good(dice)
    too_many = orjson.dumps({"items": [{"text": "a", "locale": "de-DE"}] * (PERMITS + 1)})
    kind = dice.randrange(4)
    if kind == 0:
        visitor.send(post(body))
    elif kind == 1:
        visitor.send(post(body, "expect: 100-continue")[: -len(body)])
    elif kind == 2:
        visitor.send(chunked(dice, body))
    else:
        visitor.send(post(too_many, path="/v1/nlu/batch"))
    await visitor.expect(413)
    if kind == 1:  # the next request would be read as the body
        await visitor.disconnect()


async def unknown(visitor: Visitor) -> None:
    """A locale, student, path or method that does not exist."""
    dice = visitor.dice
    raw, status = dice.choice(
        [
            (post(good(dice, locale="xx-XX")), 422),
            (post(good(dice, model="unknown")), 404),
            (post(good(dice), path="/v2/nlu"), 404),
            (request("GET", "/../%2e%2e/etc/passwd?a=b"), 404),
            (request("OPTIONS", "*"), 404),
            (request("GET", "/v1/nlu"), 405),
            (request("DELETE", "/v1/models", good(dice)), 405),
            (request("POST", "/v1/models/reload", b""), 403),
        ]
    )
    visitor.send(raw)
    await visitor.expect(status, 429)


async def needs_no_student(visitor: Visitor) -> None:
    """A request that needs no student."""
    path = visitor.dice.choice(["/livez", "/readyz", "/v1/models", "/", "/docs", "/openapi.json"])
    visitor.send(request("GET", path))
    await visitor.expect(200)


async def upgrades(visitor: Visitor) -> None:
    """A request for another protocol is answered in HTTP."""
    visitor.send(request("GET", "/livez", None, "connection: upgrade", "upgrade: websocket"))
    await visitor.expect(200)
    await visitor.disconnect()


async def slowly(visitor: Visitor) -> None:
    """Half a body, later the other half: too late where this machine is busy for longer than --body-seconds."""
    raw = post(good(visitor.dice))
    visitor.send(raw[:-9])
    await visitor.pause()
    visitor.send(raw[-9:])
    await visitor.expect(*SERVED, 408)


async def stalls(visitor: Visitor) -> None:
    """Half a body, then nothing, on an open connection."""
    raw = visitor.dice.choice([post(good(visitor.dice)), chunked(visitor.dice, good(visitor.dice))])
    visitor.send(raw[:-9])
    await visitor.expect(408)
    assert not visitor.is_open


async def disconnects(visitor: Visitor) -> None:
    """A client that disconnects: before the end of the headers, after them, within the body, or before the reply."""
    dice = visitor.dice
    body = good(dice)
    raw = post(body)
    visitor.send(raw[: dice.choice([0, 1, 20, len(raw) - len(body), len(raw) - len(body) // 2, len(raw)])])
    if dice.random() < 0.5:
        await visitor.pause()
    await visitor.disconnect(reset=dice.random() < 0.5)


async def disconnects_in_a_batch(visitor: Visitor) -> None:
    """A client that disconnects while its batch runs."""
    items = [{"text": " ".join(visitor.dice.choices(WORDS, k=9)), "locale": "de-DE"}] * PERMITS
    visitor.send(post(orjson.dumps({"items": items}), path="/v1/nlu/batch"))
    await visitor.disconnect(reset=visitor.dice.random() < 0.5)


async def resets_when_idle(visitor: Visitor) -> None:
    """A client that resets its connection between two requests, as some load balancers do."""
    visitor.send(request("GET", "/livez"))
    await visitor.expect(200)
    await visitor.pause()
    await visitor.disconnect(reset=True)


async def half_closes(visitor: Visitor) -> None:
    """A client that closes its sending side and still reads: it gets a reply, or the end of the connection."""
    visitor.send(post(good(visitor.dice)))
    visitor.writer.write_eof()
    if await visitor.reader.read(1):
        await visitor.reader.read()
    await visitor.disconnect()


def several(dice: random.Random) -> dict[str, bytes]:
    """Requests to send at once, by id."""
    ids = [f"{dice.getrandbits(64):016x}" for _ in range(dice.randint(2, 8))]
    bodies = [good(dice), b"{"]
    return {each: post(dice.choice(bodies), f"x-request-id: {each}") for each in ids}


async def pipelines(visitor: Visitor) -> None:
    """Several requests at once, answered in order."""
    requests = several(visitor.dice)
    visitor.send(*requests.values())
    for request_id in requests:
        await visitor.expect(*SERVED, *REFUSED, request_id=request_id)


async def pipelines_and_disconnects(visitor: Visitor) -> None:
    """Several requests at once, without reading all replies."""
    visitor.send(*several(visitor.dice).values())
    if visitor.dice.random() < 0.5:
        await visitor.read()
    await visitor.disconnect(reset=visitor.dice.random() < 0.5)


async def sends_invalid_http(visitor: Visitor) -> None:
    """Invalid HTTP: refused, and the connection closed."""
    visitor.send(visitor.dice.choice(GARBAGE))
    await visitor.expect(400)
    assert not visitor.is_open


async def pipelines_invalid_http(visitor: Visitor) -> None:
    """Invalid HTTP after valid requests: these are answered, then it is refused and the connection closed."""
    requests = several(visitor.dice)
    visitor.send(*requests.values(), visitor.dice.choice(GARBAGE))
    for request_id in requests:
        await visitor.expect(*SERVED, *REFUSED, request_id=request_id)
    await visitor.expect(400)
    assert not visitor.is_open


async def sets_a_deadline(visitor: Visitor) -> None:
    """A deadline: short, long, or invalid."""
    dice = visitor.dice
    deadline, statuses = dice.choice([("1", (200, 429, 504)), ("3600000", SERVED), ("0", REFUSED), ("soon", REFUSED)])
    visitor.send(post(good(dice), f"x-deadline-ms: {deadline}"))
    await visitor.expect(*statuses)


VISITS: dict[Visit, int] = {
    single: 30,
    batch: 8,
    not_json: 8,
    wrong_types: 8,
    too_large: 6,
    unknown: 8,
    needs_no_student: 4,
    upgrades: 1,
    slowly: 4,
    stalls: 2,
    disconnects: 10,
    disconnects_in_a_batch: 2,
    half_closes: 2,
    pipelines: 3,
    pipelines_and_disconnects: 2,
    sends_invalid_http: 3,
    pipelines_invalid_http: 2,
    sets_a_deadline: 6,
}


async def _visit(port: int, dice: random.Random, visits: Iterator[Visit], seen: Counter[int]) -> None:
    async with Visitor(port, dice, seen) as visitor:
        for visit in visits:
            await visitor.connect()
            try:
                async with asyncio.timeout(PATIENCE):
                    await visit(visitor)
            except (AssertionError, OSError, EOFError, ValueError) as error:
                raise AssertionError(f"{visit.__name__}: {type(error).__name__}: {error}") from error
            if dice.random() < 0.3:
                await visitor.disconnect()


def visit(port: int, kinds: Mapping[Visit, int], count: int, seed: int) -> Counter[int]:
    """Make visits of these kinds, by weight; returns the number of replies by status."""
    dice = random.Random(seed)
    visits = iter(dice.choices(list(kinds), kinds.values(), k=count))
    seen: Counter[int] = Counter()

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(VISITORS):
                group.create_task(_visit(port, random.Random(seed + number), visits, seen))

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(all_of_them())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None  # the first is enough
    return seen


def settle(server: Server, sockets: int) -> None:
    """Wait until the service has closed all connections of clients."""
    deadline = monotonic() + PATIENCE
    while (server.metric("nlu_in_flight"), server.sockets()) != (1, sockets):
        assert monotonic() < deadline, (server.metric("nlu_in_flight"), server.sockets(), sockets)


@pytest.fixture
def seed() -> int:
    return int(os.environ.get(SEED) or random.SystemRandom().getrandbits(32))


@pytest.fixture
def server(students: Path) -> Iterator[Server]:
    flags = ["--permits", str(PERMITS), "--max-batch", str(PERMITS), "--max-body-bytes", str(MAX_BYTES)]
    limits = ["--max-text-chars", "4096", "--body-seconds", "1"]
    with Server("--students", str(students), *flags, *limits) as server:
        yield server


@needs_proc
def test_ten_thousand_requests_of_all_kinds_leak_nothing(server: Server, seed: int) -> None:
    print(f"{SEED}={seed}")  # pytest shows it on failure
    sockets = server.sockets()
    visit(server.port, VISITS, WARM_UP, seed + 1)
    settle(server, sockets)
    threads, resident = server.threads(), server.resident()

    seen = visit(server.port, VISITS, REQUESTS, seed)

    settle(server, sockets)
    print(f"replies by status: {dict(sorted(seen.items()))}")
    print(f"memory: {(server.resident() - resident) / 1e6:+.1f} MB")
    assert {200, 400, 403, 404, 405, 408, 413, 422} <= seen.keys()
    assert server.threads() == threads
    assert server.resident() - resident < MAX_GROWTH
    assert_healthy(server, seen)


@needs_proc
def test_reset_connections_leak_no_memory(server: Server, seed: int) -> None:
    sockets = server.sockets()
    visit(server.port, {needs_no_student: 1}, WARM_UP, seed)
    settle(server, sockets)
    resident = server.resident()

    visit(server.port, {resets_when_idle: 1}, 6000, seed)  # a leak of a connection would be 10 kB

    settle(server, sockets)
    print(f"memory: {(server.resident() - resident) / 1e6:+.1f} MB")
    assert server.resident() - resident < 2 * MAX_GROWTH


@needs_proc
def test_clients_that_send_without_reading_are_slowed_down(server: Server) -> None:
    resident = server.resident()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_send_without_end(server.port, clients=4))

    print(f"memory: {(server.resident() - resident) / 1e6:+.1f} MB")
    assert server.resident() - resident < 64 << 20  # a request that waits costs 2 kB
    assert_healthy(server, Counter())


async def _send_without_end(port: int, clients: int) -> None:
    """Send 16 MB of requests from each client, or as many as the service accepts until each has read 500 replies."""
    dice = random.Random(0)
    many = post(good(dice)) * 1000
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for _ in range(clients):
            visitor = await stack.enter_async_context(Visitor(port, dice, Counter()))
            group.create_task(_send_and_read(visitor, many, (16 << 20) // len(many)))


async def _send_and_read(visitor: Visitor, many: bytes, times: int) -> None:
    async def send() -> None:
        for _ in range(times):
            visitor.send(many)
            await visitor.writer.drain()

    await visitor.connect()
    sending = asyncio.create_task(send())
    for _ in range(500):
        await visitor.expect(*SERVED)
    sending.cancel()
    await visitor.disconnect(reset=True)


def assert_healthy(server: Server, seen: Counter[int]) -> None:
    """The service has all its permits, has counted all replies, has logged no fault, and stops normally."""
    everything = {"items": [{"text": "weck mich um neun uhr", "locale": "de-DE"}] * PERMITS}
    # requests of clients that have disconnected hold their permits until their turn comes
    until(lambda: server.ask("POST", "/v1/nlu/batch", everything).status == 200)
    answer = server.ask("POST", "/v1/nlu/batch", everything)
    assert all("intent" in result for result in json.loads(answer.content)["results"])
    assert server.ask("GET", "/readyz").status == 200
    assert server.metric("nlu_requests_total", code="500") == 0
    for status, count in seen.items():
        assert status == 400 or server.metric("nlu_requests_total", code=str(status)) >= count
    assert server.stop() == 0
    assert FAULTS.findall(server.log()) == []
