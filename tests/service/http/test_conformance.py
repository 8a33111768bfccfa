"""HTTP/1.1 as RFC 9110 and 9112 define it, case by case: what is answered, and whether the connection goes on.

Each case is followed by one more request. It must be answered where the connection goes on, and must not be where it
closes: so a case also fails if the service sees other limits between requests than it should (request smuggling).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.service.server import PATIENCE, Server

BODY = b'{"text":"wetter","locale":"de-DE"}'
SIZE = len(BODY)  # 34, 0x22
LAST = b"GET /livez HTTP/1.1\r\nhost: x\r\nx-request-id: last\r\nconnection: close\r\n\r\n"
UPGRADE = (b"connection: upgrade", b"upgrade: h2c")


class Case(NamedTuple):
    """What is sent, the status of each reply, and whether the service closes the connection after them."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    closes: bool


def get(*headers: bytes, line: bytes = b"GET /livez HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"host: x", *headers, b"\r\n"])


def target(path: bytes) -> bytes:
    return get(line=b"GET " + path + b" HTTP/1.1")


def host(*headers: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"GET /livez HTTP/" + version, *headers, b"\r\n"])


def post(*headers: bytes, body: bytes = BODY, line: bytes = b"POST /v1/nlu HTTP/1.1") -> bytes:
    return get(b"content-type: application/json", *headers, line=line) + body


def sized(length: bytes = b"34", *headers: bytes, body: bytes = BODY) -> bytes:
    return post(b"content-length: " + length, *headers, body=body)


def coded(coding: bytes, *headers: bytes) -> bytes:
    return post(b"transfer-encoding: " + coding, *headers, body=b"22\r\n" + BODY + b"\r\n0\r\n\r\n")


def chunked(body: bytes) -> bytes:
    return post(b"transfer-encoding: chunked", body=body)


def chunk(size: bytes) -> bytes:
    """A body whose first chunk begins with `size`, though it should be 22."""
    return chunked(size + b"\r\n" + BODY + b"\r\n0\r\n\r\n")


def answered(name: str, sent: bytes, *statuses: int) -> Case:
    return Case(name, sent, statuses or (200,), closes=False)


def closed(name: str, sent: bytes, *statuses: int) -> Case:
    return Case(name, sent, statuses or (400,), closes=True)


CASES = [
    # request line
    answered("empty lines before it", b"\r\n\r\n" + get()),
    answered("query", target(b"/livez?a=%00&b")),
    answered("percent-encoded path of a known route", target(b"/%6detrics"), 404),
    answered("percent-encoded slash", target(b"/v1%2Fmodels"), 404),
    answered("two slashes", target(b"//livez"), 404),
    answered("dot segments", target(b"/v1/../livez"), 404),
    answered("path parameter", target(b"/livez;a=b"), 404),
    answered("other case", target(b"/LIVEZ"), 404),
    answered("backslash", target(b"/\\livez"), 404),
    answered("absolute-form", target(b"http://x/livez")),
    answered("absolute-form, other case, port and query", target(b"HTTP://x:80/livez?a")),
    answered("absolute-form without a path", target(b"http://x")),
    answered("asterisk-form", get(line=b"OPTIONS * HTTP/1.1"), 404),
    closed("asterisk-form of another method", target(b"*")),
    closed("absolute-form with a user", target(b"http://u@x/livez")),
    closed("absolute-form without a host", target(b"http:///livez")),
    closed("absolute-form of another scheme", target(b"ftp://x/livez")),
    closed("authority-form", target(b"x:80")),
    closed("no slash", target(b"livez")),
    closed("no target", get(line=b"GET HTTP/1.1")),
    closed("fragment", target(b"/livez#a")),
    closed("fragment in the query", target(b"/livez?a#b")),
    closed("NUL in the path", target(b"/livez\x00")),
    closed("tab in the path", target(b"/liv\tez")),
    closed("space in the path", target(b"/liv ez")),
    closed("byte above 127 in the path", target(b"/\xe4")),
    closed("long target", target(b"/" + b"a" * 200_000), 431),
    closed("leading space", b" " + get()),
    closed("tabs", get(line=b"GET\t/livez\tHTTP/1.1")),
    closed("lower-case method", get(line=b"get /livez HTTP/1.1")),
    closed("unknown method", get(line=b"SMUGGLE /livez HTTP/1.1")),
    closed("NUL in the method", get(line=b"GE\x00T /livez HTTP/1.1")),
    closed("CONNECT", get(line=b"CONNECT x:80 HTTP/1.1")),
    answered("method that the path lacks", get(line=b"DELETE /livez HTTP/1.1"), 405),
    answered("OPTIONS", get(line=b"OPTIONS /livez HTTP/1.1"), 405),
    answered("TRACE", get(line=b"TRACE /livez HTTP/1.1"), 405),
    answered("HEAD", get(line=b"HEAD /livez HTTP/1.1")),
    answered("HEAD of a path that takes POST", get(line=b"HEAD /v1/nlu HTTP/1.1"), 405),
    # version
    closed("HTTP/0.9", b"GET /livez\r\n\r\n"),
    closed("HTTP/0.9 by name", get(line=b"GET /livez HTTP/0.9")),
    closed("HTTP/1.0", get(line=b"GET /livez HTTP/1.0"), 200),
    closed("HTTP/1.0, keep-alive", get(b"connection: keep-alive", line=b"GET /livez HTTP/1.0"), 200),
    closed("HTTP/1.2", get(line=b"GET /livez HTTP/1.2")),
    closed("HTTP/1.10", get(line=b"GET /livez HTTP/1.10")),
    closed("HTTP/2.0", get(line=b"GET /livez HTTP/2.0")),
    closed("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    closed("lower-case version", get(line=b"GET /livez http/1.1")),
    closed("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    # host
    answered("host with a port", host(b"host: x:80")),
    answered("host with white space around", host(b"host: \t x \t ")),
    answered("IPv6 host", host(b"host: [::1]:80")),
    closed("no host", host()),
    closed("no host, HTTP/1.0", host(version=b"1.0"), 200),
    closed("two hosts", host(b"host: x", b"host: x")),
    closed("two hosts, HTTP/1.0", host(b"host: x", b"host: y", version=b"1.0")),
    closed("empty host", host(b"host:")),
    closed("list of hosts", host(b"host: x, y")),
    closed("host with a path", host(b"host: x/livez")),
    closed("host with a user", host(b"host: u@x")),
    closed("host with a port that is no number", host(b"host: x:a")),
    closed("absolute-form and no host", b"GET http://x/livez HTTP/1.1\r\n\r\n"),
    # other headers
    answered("empty value", get(b"a:")),
    answered("tab and bytes above 127 in a value", get(b"a: b\t\xe4\xff")),
    closed("space before the colon", get(b"a : b")),
    closed("space before the colon of a length", post(b"content-length : 34")),
    closed("space before the first header", b"GET /livez HTTP/1.1\r\n host: x\r\n\r\n"),
    closed("obs-fold", get(b"a: b", b" c")),
    closed("obs-fold of a coding", post(b"transfer-encoding:", b" chunked", body=b"0\r\n\r\n")),
    closed("no colon", get(b"a")),
    closed("no name", get(b": a")),
    closed("NUL in a name", get(b"a\x00: b")),
    closed("NUL in a value", get(b"a: b\x00")),
    closed("control character in a value", get(b"a: b\x7f")),
    closed("bare LF after a header", b"GET /livez HTTP/1.1\r\nhost: x\na: b\r\n\r\n"),
    closed("bare CR after a header", b"GET /livez HTTP/1.1\r\nhost: x\ra: b\r\n\r\n"),
    closed("bare LF after all lines", b"GET /livez HTTP/1.1\nhost: x\n\n"),
    closed("bare LF at the end of the head", b"GET /livez HTTP/1.1\r\nhost: x\r\n\n"),
    closed("long header", get(b"a: " + b"b" * 200_000), 431),
    closed("many headers", get(*[b"a: b"] * 20_000), 431),
    closed("endless empty lines", b"\r\n" * 200_000, 431),
    # content-length
    answered("length with leading zeros", sized(b"0" * 5000 + b"34")),
    answered("length of thousands of zeros", sized(b"0" * 5000, body=b""), 422),
    answered("length of 0", sized(b"0", body=b""), 422),
    answered("no length, no body", post(body=b""), 422),
    answered("body of a GET", get(b"content-length: 5") + b"hello"),
    closed("two equal lengths", sized(b"34", b"content-length: 34")),
    closed("two lengths", sized(b"34", b"content-length: 0")),
    closed("list of lengths", sized(b"34, 34")),
    closed("empty length", sized(b"")),
    closed("negative length", sized(b"-1")),
    closed("length with a sign", sized(b"+34")),
    closed("hexadecimal length", sized(b"0x22")),
    closed("length with a fraction", sized(b"34.0")),
    closed("length with a space", sized(b"3 4")),
    closed("length beyond 64 bits", sized(b"18446744073709551650")),
    closed("length beyond the limit", sized(b"99999999"), 413),
    # transfer-encoding
    answered("chunked", coded(b"chunked")),
    answered("chunked in another case", coded(b"Chunked")),
    answered("chunked with white space around", coded(b"\t chunked ")),
    closed("length, then chunked (CL.TE)", coded(b"chunked", b"content-length: 34")),
    closed(
        "chunked, then length (TE.CL)", post(b"content-length: 4", b"transfer-encoding: chunked", body=b"0\r\n\r\n")
    ),
    closed("chunked twice", coded(b"chunked, chunked")),
    closed("chunked in two headers", coded(b"chunked", b"transfer-encoding: chunked")),
    closed("chunked, then another in its own header", coded(b"chunked", b"transfer-encoding: identity")),
    closed("coding before chunked", coded(b"gzip, chunked")),
    closed("coding after chunked", coded(b"chunked, gzip")),
    closed("coding without chunked", coded(b"gzip")),
    closed("identity", coded(b"identity")),
    closed("identity and a length", sized(b"34", b"transfer-encoding: identity")),
    closed("empty member before chunked", coded(b", chunked")),
    closed("empty coding", coded(b"")),
    closed("quoted coding", coded(b'"chunked"')),
    closed("coding with a parameter", coded(b"chunked;q=1")),
    closed("coding with a prefix", coded(b"xchunked")),
    closed("vertical tab before chunked", coded(b"\x0bchunked")),
    closed("chunked, HTTP/1.0", coded(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0")),
    # chunks
    answered("leading zero", chunk(b"0022")),
    answered("extension", chunk(b'22;a=b;c="d;e"')),
    closed("size with a prefix", chunk(b"0x22")),
    closed("size with a sign", chunk(b"+22")),
    closed("negative size", chunk(b"-1")),
    closed("size with a space", chunk(b"22 ")),
    closed("no size", chunk(b"")),
    closed("size beyond 64 bits", chunk(b"10000000000000022")),
    closed("LF in an extension", chunk(b"22;\na")),
    closed("NUL in an extension", chunk(b"22;a=\x00")),
    closed("long extension", chunk(b"22;a=" + b"b" * 200_000), 431),
    closed("bare LF after the size", chunked(b"22\n" + BODY + b"\r\n0\r\n\r\n")),
    closed("nothing after a chunk", chunked(b"22\r\n" + BODY + b"0\r\n\r\n")),
    closed("bare LF after a chunk", chunked(b"22\r\n" + BODY + b"\n0\r\n\r\n")),
    closed("bare LF at the end", chunked(b"22\r\n" + BODY + b"\r\n0\r\n\n")),
    answered("trailer", chunked(b"22\r\n" + BODY + b"\r\n0\r\na: b\r\n\r\n")),
    answered("trailer that asks to close", chunked(b"22\r\n" + BODY + b"\r\n0\r\nconnection: close\r\n\r\n")),
    answered("trailer with a host", chunked(b"22\r\n" + BODY + b"\r\n0\r\nhost: y\r\n\r\n")),
    closed("trailer with a length", chunked(b"22\r\n" + BODY + b"\r\n0\r\ncontent-length: 5\r\n\r\n")),
    closed("trailer with a coding", chunked(b"22\r\n" + BODY + b"\r\n0\r\ntransfer-encoding: chunked\r\n\r\n")),
    closed("long trailer", chunked(b"22\r\n" + BODY + b"\r\n0\r\na: " + b"b" * 200_000 + b"\r\n\r\n"), 431),
    # connection, upgrade and order
    answered("close in the value of another header", get(b"a: connection: close")),
    closed("close", get(b"connection: close"), 200),
    closed("close in a list", get(b"connection: keep-alive, Close"), 200),
    closed("close, then what is no request", get(b"connection: close") + b"\x00\r\n\r\n", 200),
    closed("close, then an upgrade", get(b"connection: close") + get(*UPGRADE), 200),
    answered("upgrade", get(*UPGRADE)),
    answered("upgrade with a body", sized(b"34", *UPGRADE)),
    answered("upgrade with chunks", coded(b"chunked", *UPGRADE)),
    answered("upgrade that is not in connection", get(b"upgrade: websocket")),
    answered("600 upgrades", get(*UPGRADE) * 600, *[200] * 600),
    closed("upgrade without a host", host(*UPGRADE)),
    closed("upgrade of HTTP/1.0", get(*UPGRADE, line=b"GET /livez HTTP/1.0"), 200),
    answered("order of different requests", target(b"/a") + sized() + get() + post(body=b""), 404, 200, 200, 422),
    closed("order before an invalid request", sized() + target(b"/a") + b"\x00\r\n\r\n", 200, 404, 400),
    closed("order before an invalid chunk", sized() + get() + chunk(b"z"), 200, 200, 400),
    answered("unknown expectation", sized(b"34", b"expect: 200-ok")),
    # replies before the end of a body
    closed("unknown path", post(b"content-length: 999", line=b"POST /nowhere HTTP/1.1"), 404),
    closed("wrong method", post(b"content-length: 999", line=b"POST /livez HTTP/1.1"), 405),
    closed("wrong type", get(b"content-length: 999", line=b"POST /v1/nlu HTTP/1.1"), 415),
]


@pytest.fixture(scope="module")
def server(students: Path) -> Iterator[Server]:
    with Server("--students", str(students)) as server:
        yield server
        assert "ERROR" not in server.log()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(server: Server, case: Case) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(case.sent + LAST)
        replies = b"".join(iter(lambda: connection.recv(1 << 16), b""))

    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", replies)]
    assert statuses == [*case.statuses, *([] if case.closes else [200])]
    assert (b"x-request-id: last" in replies) is not case.closes
    assert b"\r\nconnection: close\r\n" in replies[replies.rindex(b"HTTP/1.1 %d" % statuses[-1]) :]


def test_names_are_distinct() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
