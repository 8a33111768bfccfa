"""The closed-loop load generator, against a stand-in server that works or fails as a test chooses."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from starlette.responses import JSONResponse, Response

from loadtest.load.client import LoadError
from loadtest.load.closed_loop import Measured, measure
from tests.loadtest.conftest import Reply, Serve, answer_to

BODIES = [orjson.dumps({"text": f"text{number} hallo", "locale": "de-DE"}) for number in range(50)]
Answering = Callable[[asyncio.Transport], None]


def load(url: str, **more: Any) -> Measured:
    """A short load test."""
    return measure(url, BODIES, **({"connections": 4, "seconds": 0.15} | more))


@contextmanager
def bare_server(answer: Answering) -> Iterator[str]:
    """A server without HTTP, which calls `answer` for all received data; yields its URL."""

    open_ones: set[asyncio.Transport] = set()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            open_ones.add(transport)

        def connection_lost(self, error: Exception | None) -> None:
            open_ones.discard(self.transport)

        def data_received(self, data: bytes) -> None:
            answer(self.transport)

    async def start() -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        for transport in open_ones:
            transport.abort()
        while open_ones:  # a transport closes its socket in a later turn of the loop
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_replies_are_counted_and_timed(serve: Serve) -> None:
    pause = 0.02

    found = load(serve(pause=pause), seconds=0.3, warm_up=0.1)

    shortest = pause - 0.002  # the clock of an event loop is coarse
    assert not found.failures
    assert found.seconds > 0.29
    assert shortest <= found.percentile(50) <= found.percentile(99)
    assert 0 < len(found.latencies) <= 4 * found.seconds / shortest + 4  # four connections, each waits for the pause
    assert found.per_second == pytest.approx(len(found.latencies) / found.seconds)
    assert found.cpu_share > 0
    assert gc.isenabled()


def test_texts_are_sent_in_turn_by_all_connections(serve: Serve) -> None:
    seen: Counter[str] = Counter()

    def note(answer: Reply) -> Reply:
        seen[answer["slots"][0]["value"]] += 1
        return answer

    load(serve(tamper=note), seconds=0.3)

    counts = [seen[f"text{number}"] for number in range(len(BODIES))]
    assert counts == sorted(counts, reverse=True)
    assert max(counts) - min(counts) <= 1


def test_each_counted_reply_can_be_read(serve: Serve) -> None:
    contents: list[bytes] = []

    found = load(serve(), warm_up=0.1, on_reply=contents.append)

    assert len(contents) == len(found.latencies)
    assert all("domain" in orjson.loads(content) for content in contents)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (JSONResponse({"error": {"code": "not_ready"}}, status_code=503), "HTTP 503 (not_ready)"),
        (Response("<html>"), "reply is not JSON"),
        (JSONResponse({"slots": None}), "answer has neither domain nor intent nor slots"),
    ],
)
def test_wrong_replies_are_failures(serve: Serve, sent: Response, reason: str) -> None:
    found = load(serve(tamper=lambda answer: sent))

    assert list(found.failures) == [reason]


def test_every_reply_without_success_is_counted_the_others_are_sampled(serve: Serve) -> None:
    refused = load(serve(tamper=lambda answer: Response(status_code=500)))
    empty = load(serve(tamper=lambda answer: JSONResponse({})))

    assert refused.failures.total() >= len(refused.latencies)
    assert 1 <= empty.failures.total() < len(empty.latencies)


def test_a_server_that_does_not_answer_is_one_sentence(serve: Serve) -> None:
    with pytest.raises(LoadError, match=r"http://127\.0\.0\.1:\d+ gave no reply within 0\.1 s$"):
        load(serve(pause=0.4), reply_timeout=0.1, seconds=5)


def test_a_server_that_is_slower_than_the_measurement_is_one_sentence(serve: Serve) -> None:
    with pytest.raises(LoadError, match=r"gave no reply in 0\.\d+ s"):
        load(serve(pause=0.4))


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(LoadError, match=r"http://127\.0\.0\.1:9 can't be reached"):
        load("http://127.0.0.1:9")


def test_a_server_that_closes_connections_is_one_sentence() -> None:
    with bare_server(lambda transport: transport.close()) as url, pytest.raises(LoadError, match="closed a connection"):
        load(url, seconds=5)


def test_an_error_before_a_closed_connection_is_named() -> None:
    def break_down(transport: asyncio.Transport) -> None:
        transport.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        transport.close()

    with bare_server(break_down) as url, pytest.raises(LoadError, match=r"closed a connection .* after HTTP 500"):
        load(url, seconds=5)


def test_a_server_without_http_is_one_sentence() -> None:
    with (
        bare_server(lambda transport: transport.write(b"hello\r\n")) as url,
        pytest.raises(LoadError, match="invalid HTTP reply"),
    ):
        load(url, seconds=5)


@pytest.mark.slow
def test_the_generator_is_fast() -> None:
    content = orjson.dumps(answer_to("text hallo") | {"slots": []})
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)

    with bare_server(lambda transport: transport.write(reply)) as url:
        found = load(url, connections=32)

    assert not found.failures
    assert found.per_second > 2000  # far below what it does: the server shares its interpreter here
