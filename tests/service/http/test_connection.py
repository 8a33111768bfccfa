"""HTTP on a connection: what clients and proxies rely on, and attacks."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from service.student.student import Student
from tests.service.server import PATIENCE, Server, until

BODY = b'{"text":"wetter","locale":"de-DE"}'
Reply = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def server(students: Path) -> Iterator[Server]:
    with Server("--students", str(students), "--max-body-bytes", "200000") as server:
        yield server


class Wire:
    """A connection on which bytes are sent as they are."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *parts: bytes) -> Wire:
        self.socket.sendall(b"".join(parts))
        return self

    def reply(self, *, body: bool = True) -> Reply:
        status = int(self._file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._file.readline().strip():
            name, value = line.decode().split(": ", 1)
            headers[name] = value
        return status, headers, self._file.read(int(headers["content-length"])) if body and status != 100 else b""

    def rest(self) -> bytes:
        return self._file.read()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.port) as wire:
        yield wire


def post(body: bytes = BODY, *headers: bytes, path: bytes = b"/v1/nlu", version: bytes = b"1.1") -> bytes:
    lines = [b"POST %s HTTP/%s" % (path, version), b"host: x", b"content-type: application/json", *headers]
    lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*chunks: bytes, trailer: bytes = b"", path: bytes = b"/v1/nlu") -> bytes:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % path
    head += b"transfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"


def test_requests_on_one_connection_are_answered_in_order(wire: Wire) -> None:
    ids = [b"id-%d" % number for number in range(50)]

    wire.send(*(post(BODY, b"x-request-id: " + each) for each in ids))

    assert [wire.reply()[1]["x-request-id"].encode() for _ in ids] == ids


def test_request_may_come_byte_by_byte(wire: Wire) -> None:
    for byte in post():
        wire.send(bytes([byte]))

    assert wire.reply()[0] == 200


def test_body_in_many_small_chunks(wire: Wire) -> None:
    body = BODY[:-1] + b" " * 50_000 + b"}"

    wire.send(chunked(*(body[i : i + 1] for i in range(len(body)))))

    assert wire.reply()[0] == 200


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_upgrade_is_declined_and_the_request_answered(wire: Wire, protocol: bytes) -> None:
    wire.send(
        post(BODY, b"connection: Upgrade, HTTP2-Settings", b"upgrade: " + protocol, b"http2-settings: AAMAAABk"), post()
    )

    assert [wire.reply()[0] for _ in range(2)] == [200, 200]


def test_trailer_is_no_header(wire: Wire) -> None:
    wire.send(chunked(BODY, trailer=b"x-request-id: from-the-trailer\r\n"), post())

    assert wire.reply()[1]["x-request-id"] != "from-the-trailer"
    assert wire.reply()[0] == 200


@pytest.mark.parametrize("part", [b"x-long: " + b"a" * 1_000_000, b"x: y\r\n" * 20_000])
def test_head_is_bounded(wire: Wire, part: bytes) -> None:
    wire.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n", part)

    status, headers, content = wire.reply()

    assert (status, headers["connection"]) == (431, "close")
    assert json.loads(content)["error"]["code"] == "head_too_large"


def test_head_is_not_timed_while_the_service_does_not_read(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.connection.HEAD_SECONDS", 0.0)
    running, may_continue, predict_each = Event(), Event(), Student.predict_each

    def wait_and_predict(student: Student, questions: Any) -> Any:
        running.set()
        may_continue.wait(PATIENCE)
        return predict_each(student, questions)

    client = make_client()
    monkeypatch.setattr(Student, "predict_each", wait_and_predict)
    client.app.state.registry.models["s"].queue.run_in_thread(True)

    with client.listening() as port, Wire(port) as wire:
        wire.send(post() * 2 + post()[:20])
        assert running.wait(PATIENCE)
        client.call(asyncio.sleep, 0)  # time for a timer to fire
        wire.send(post()[20:])
        may_continue.set()

        assert [wire.reply()[0] for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(("version", "header"), [(b"1.1", b"connection: close"), (b"1.0", b"x: y")])
def test_early_reply_to_a_large_body_reaches_a_client_that_asked_for_the_end(
    wire: Wire, version: bytes, header: bytes
) -> None:
    wire.send(post(b" " * 3_000_000, header, version=version))

    assert wire.reply()[0] == 413
    assert wire.rest() == b""


def test_bytes_behind_an_early_reply_bring_no_second_one(wire: Wire) -> None:
    wire.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    status = wire.reply()[0]
    wire.send(b"this is no chunk\r\n")

    assert (status, wire.rest()) == (404, b"")


@pytest.mark.parametrize("expectation", [b"100-continue", b"100-Continue", b" 100-CONTINUE "])
def test_body_is_awaited_where_the_client_waits_too(wire: Wire, expectation: bytes) -> None:
    head, body = post(BODY, b"expect: " + expectation).split(b"\r\n\r\n")
    wire.send(head, b"\r\n\r\n")
    status = wire.reply()[0]

    assert (status, wire.send(body).reply()[0]) == (100, 200)


def test_a_client_that_waits_in_vain_gets_the_reply_and_the_end(wire: Wire) -> None:
    wire.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
    status, headers, _ = wire.reply()

    assert (status, headers["connection"], wire.rest()) == (404, "close", b"")


def test_endless_body_of_a_refused_request_is_not_read(wire: Wire) -> None:
    wire.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000000\r\n\r\n")
    status = wire.reply()[0]

    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        wire.send(b" " * (64 << 20))

    assert status == 404


@pytest.mark.parametrize("framing", [b"content-length: 1000000000000", b"transfer-encoding: chunked"])
def test_rest_of_a_refused_request_is_not_awaited_for_long(
    make_client: Any, monkeypatch: pytest.MonkeyPatch, framing: bytes
) -> None:
    monkeypatch.setattr("service.http.lingering.LINGER_SECONDS", 0.0)

    with make_client().listening() as port, Wire(port) as wire:
        wire.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\n", framing, b"\r\n\r\n")
        assert wire.reply()[0] == 404
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            until(lambda: not wire.send(b"0"))


def test_invalid_chunk_is_counted_once(server: Server, wire: Wire) -> None:
    before = counts(server)
    head = b"POST /v1/nlu HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
    wire.send(head, b"expect: 100-continue\r\nx-request-id: mine\r\n\r\n")
    assert wire.reply()[0] == 100  # the service waits for the body

    status, headers, content = wire.send(b"this is no chunk\r\n").reply()

    assert (status, json.loads(content)["error"]["code"]) == (400, "bad_http")
    assert (headers["x-request-id"], headers["connection"], wire.rest()) == ("mine", "close", b"")
    assert [after - earlier for after, earlier in zip(counts(server), before, strict=True)] == [1, 1]


def test_invalid_chunk_in_the_first_bytes_is_counted_once(server: Server, wire: Wire) -> None:
    before = counts(server)

    assert wire.send(chunked(BODY).replace(b"22\r\n", b"zz\r\n")).reply()[0] == 400
    assert [after - earlier for after, earlier in zip(counts(server), before, strict=True)] == [1, 1]


def counts(server: Server) -> tuple[float, float]:
    """The numbers of requests, those for this excepted, and of errors."""
    requests = server.metric("nlu_requests_total") - server.metric("nlu_requests_total", endpoint="/metrics")
    return requests, server.metric("nlu_rejected_total")


def test_invalid_chunk_behind_a_reply_is_no_fault(server: Server, wire: Wire) -> None:
    first = b"GET /livez HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\r\n"
    second, chunks = chunked(BODY).split(b"\r\n\r\n", 1)
    wire.send(first, second, b"\r\n\r\n")
    statuses = [wire.reply()[0]]
    wire.send(chunks.replace(b"22", b"zz"))
    statuses.append(wire.reply()[0])

    assert (statuses, wire.rest()) == ([200, 400], b"")
    assert "ERROR" not in server.log()
    assert "Traceback" not in server.log()


def test_old_clients_get_no_100_continue(wire: Wire) -> None:
    wire.send(post(BODY, b"expect: 100-continue", version=b"1.0"))

    assert wire.reply()[0] == 200
    assert wire.rest() == b""


def test_head_is_get_without_a_body(wire: Wire) -> None:
    wire.send(b"HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    status, headers, _ = wire.reply(body=False)

    assert (status, headers["content-length"]) == (200, str(len(wire.reply()[2])))


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /v1/nlu HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/nlu HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"GET /livez HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_ambiguous_requests_are_refused(wire: Wire, raw: bytes) -> None:
    wire.send(raw)

    assert wire.reply()[0] == 400
    assert wire.rest() == b""


def test_refusals_of_bytes_are_counted(server: Server, wire: Wire) -> None:
    before = server.metric("nlu_rejected_total", reason="http")

    wire.send(b"\x00\r\n\r\n").reply()

    assert server.metric("nlu_rejected_total", reason="http") == before + 1


def test_stop_does_not_wait_for_an_unread_body(students: Path) -> None:
    with Server("--students", str(students), "--drain-seconds", "60") as server, Wire(server.port) as wire:
        wire.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf!")
        assert wire.reply()[0] == 404

        assert server.stop() == 0
