"""Rules for the head of a request, so that no proxy can read it differently (RFC 9112, sections 3.2, 6.1 and 11.2).

httptools checks the syntax, lengths and chunks; it accepts any host and transfer coding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from service.errors import BadHttp

CHECKED_HEADERS = frozenset((b"host", b"transfer-encoding", b"expect"))
HOST = rb"(?:[\w.~!$&'()*+,;=%-]+|\[[\w.:~%-]+\])(?::\d{0,5})?"
HOST_HEADER = re.compile(HOST)
ABSOLUTE_TARGET = re.compile(rb"https?://" + HOST + rb"(/[^?#]*)?(\?[^#]*)?", re.IGNORECASE)


def check_headers(version: str, checked: Iterable[tuple[bytes, bytes]]) -> bool:
    """Check the headers that are in `CHECKED_HEADERS`, with names in lower case.

    Returns whether the client waits for ``100 Continue`` before it sends the body.

    Raises:
        BadHttp: the version is unknown, the host is missing, repeated or invalid, or the body is coded other than in
            chunks.
    """
    if version not in ("1.0", "1.1"):
        raise BadHttp(problem="its version should be 1.0 or 1.1")
    values: dict[bytes, list[bytes]] = {name: [] for name in CHECKED_HEADERS}
    for name, value in checked:
        values[name].append(value.strip().lower())
    hosts, codings = values[b"host"], values[b"transfer-encoding"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadHttp(problem="it should have one host header")
    if hosts and not HOST_HEADER.fullmatch(hosts[0]):
        raise BadHttp(problem="its host header should be HOST or HOST:PORT")
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise BadHttp(problem="transfer-encoding should be chunked alone, in HTTP/1.1")
    return version == "1.1" and b"100-continue" in values[b"expect"]


def unusual_target(target: bytes, method: bytes) -> bytes:
    """Path and query of a target that is no plain path: ``http://host/path?query``, or ``*`` of OPTIONS.

    Raises:
        BadHttp: it is another one, or has a fragment.
    """
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = ABSOLUTE_TARGET.fullmatch(target)
    if absolute is None:
        raise BadHttp(problem="its target should be a path or an HTTP URL, without a fragment")
    return (absolute[1] or b"/") + (absolute[2] or b"")


def head_without_upgrade(method: bytes, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request without its ``upgrade`` headers, which may be ignored (RFC 9110, section 7.8).

    Raises:
        BadHttp: the request is CONNECT, whose body belongs to another protocol.
    """
    if method == b"CONNECT":
        raise BadHttp(problem="this is no proxy")
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"
